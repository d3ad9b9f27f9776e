//! How the executable is linked.
//!
//! - At a fixed address. It is the shim of every pod too, and relocating it would cost each of those processes
//!   1.8 MiB of memory of its own and a few hundred page faults at its start. Stack, heap and mappings stay at
//!   random addresses.
//! - Stripped when released. A package with settings of its own in the profile (here: built small) does not get
//!   the profile's `strip`, so the linker is told.
//! - With functions of the same code folded into one when released; generic code has many.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let is = |name: &str, value: &str| std::env::var(name).as_deref() == Ok(value);
    if is("CARGO_CFG_TARGET_OS", "linux") && is("CARGO_CFG_TARGET_ENV", "gnu") {
        println!("cargo::rustc-link-arg-bins=-no-pie");
        println!("cargo::rustc-link-arg-bins=-static");
    }
    if is("PROFILE", "release") {
        println!("cargo::rustc-link-arg-bins=-Wl,--strip-all");
        println!("cargo::rustc-link-arg-bins=-Wl,--icf=all");
    }
}
