//! Installing a compiled seccomp filter in the calling thread, right before it runs a payload.
//!
//! Without `no_new_privs` the kernel asks for `CAP_SYS_ADMIN`; that choice is the caller's.

use crate::{Error, Result};

/// One classic BPF instruction, as the kernel takes it.
const INSTRUCTION_SIZE: usize = size_of::<libc::sock_filter>();

/// Installs `program`, the raw bytes of BPF instructions; it holds for this thread and all it starts.
pub fn install(program: &[u8]) -> Result<()> {
    let invalid = |detail: String| Error::Invalid {
        operation: "install seccomp filter",
        detail,
    };
    if program.is_empty() || !program.len().is_multiple_of(INSTRUCTION_SIZE) {
        return Err(invalid(format!(
            "{} bytes are not whole instructions",
            program.len()
        )));
    }
    let mut instructions: Vec<libc::sock_filter> = program
        .chunks_exact(INSTRUCTION_SIZE)
        .map(|raw| libc::sock_filter {
            code: u16::from_ne_bytes([raw[0], raw[1]]),
            jt: raw[2],
            jf: raw[3],
            k: u32::from_ne_bytes([raw[4], raw[5], raw[6], raw[7]]),
        })
        .collect();
    let len = u16::try_from(instructions.len())
        .map_err(|_| invalid(format!("{} instructions are too many", instructions.len())))?;
    let filter = libc::sock_fprog {
        len,
        filter: instructions.as_mut_ptr(),
    };
    // SAFETY: `filter` points at `len` instructions that live until the call returns; the kernel copies and
    // checks them.
    let code = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER as libc::c_ulong,
            &raw const filter,
        )
    };
    match code {
        0 => Ok(()),
        _ => Err(Error::kernel(
            "install",
            "seccomp filter",
            std::io::Error::last_os_error(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_an_instruction_is_refused() {
        assert!(install(&[0; 7]).is_err());
        assert!(install(&[]).is_err());
    }

    #[test]
    fn an_installed_filter_answers_for_the_kernel() {
        // Errno 99 for getppid, everything else allowed; in a thread of its own, where it stays.
        let load_nr = (0x20_u16, 0_u8, 0_u8, 0_u32);
        let is_getppid = (0x15, 0, 1, libc::SYS_getppid as u32);
        let errno_99 = (0x06, 0, 0, 0x0005_0000 | 99);
        let allow = (0x06, 0, 0, 0x7fff_0000);
        let program: Vec<u8> = [load_nr, is_getppid, errno_99, allow]
            .iter()
            .flat_map(|(code, jt, jf, k)| {
                let (code, k) = (code.to_ne_bytes(), k.to_ne_bytes());
                [code[0], code[1], *jt, *jf, k[0], k[1], k[2], k[3]]
            })
            .collect();
        std::thread::spawn(move || {
            rustix::thread::set_no_new_privs(true).unwrap();
            install(&program).unwrap();
            // SAFETY: takes nothing and touches no memory.
            assert_eq!(unsafe { libc::syscall(libc::SYS_getppid) }, -1);
            assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(99));
        })
        .join()
        .unwrap();
    }
}
