//! Parsing, the fake, and the real kernel in a mount namespace that ends with the test.

use super::kernel::escape_layer;
use super::*;
use crate::Kernel;

#[test]
fn mountinfo_lines_are_read_with_their_escapes() {
    let text = "36 35 98:0 /mnt1 /mnt/a\\040b rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue\n\
                broken line\n\
                37 36 0:5 / /proc ro - proc proc rw\n";
    let table = parse_mountinfo(text);
    assert_eq!(table.len(), 2);
    assert_eq!(table[0].target, Path::new("/mnt/a b"));
    assert_eq!(table[0].propagation, ["master:1", "shared:2"]);
    assert!(table[0].is_shared() && !table[0].is_read_only());
    assert_eq!(table[0].super_options, ["rw", "errors=continue"]);
    assert!(table[1].is_read_only() && !table[1].is_shared());
}

#[test]
fn layer_names_with_separators_are_escaped() {
    assert_eq!(escape_layer(Path::new("/a:b,c\\d")), "/a\\:b\\,c\\\\d");
}

#[test]
fn unmounting_under_a_path_goes_innermost_first_and_spares_neighbours() {
    let fake = crate::fake::Recorder::default();
    for target in ["/d/pods", "/d/pods/a", "/d/podsx", "/d/pods/a/b"] {
        fake.mount(&Mount::tmpfs(target, "")).unwrap();
    }
    assert_eq!(unmount_under(&fake, Path::new("/d/pods")).unwrap(), 3);
    let left: Vec<_> = fake.table().unwrap().into_iter().map(|m| m.target).collect();
    assert_eq!(left, [Path::new("/d/podsx")]);
    assert_eq!(
        fake.calls()[4..],
        [
            "unmount /d/pods/a/b detach",
            "unmount /d/pods/a detach",
            "unmount /d/pods detach"
        ]
    );
}

/// Runs a test in a mount namespace that ends with it, or says why it cannot.
fn in_own_mounts(test: impl FnOnce(&Path) -> Result<()> + Send) {
    use rustix::thread::UnshareFlags;
    let flags = UnshareFlags::NEWNS | UnshareFlags::FS;
    if let Err(error) = crate::check::in_new(flags, || Ok(())) {
        println!("skipped: {}", error.chain());
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let outcome = crate::check::in_new(flags, || {
        Kernel.mount(&Mount::propagate("/", Propagation::Private, Depth::Recursive))?;
        Kernel.mount(&Mount::tmpfs(dir.path(), "size=16m,mode=0755"))?;
        test(dir.path())
    });
    outcome.unwrap_or_else(|error| panic!("{}", error.chain()));
}

#[test]
fn mounts_are_made_changed_found_and_undone() {
    in_own_mounts(|dir| {
        let [a, b, c] = ["a", "b b", "c"].map(|name| dir.join(name));
        for path in [&a, &b, &c] {
            std::fs::create_dir(path).unwrap();
        }
        Kernel.mount(&Mount::tmpfs(&a, "size=1m"))?;
        std::fs::create_dir(a.join("inner")).unwrap();
        Kernel.mount(&Mount::tmpfs(a.join("inner"), ""))?;
        Kernel.mount(&Mount::bind_recursive(&a, &b))?;
        assert!(Kernel.is_mount_point(&b)? && !Kernel.is_mount_point(&c)?);
        assert!(!Kernel.is_mount_point(&dir.join("nothing"))?);
        assert!(
            Kernel
                .table()?
                .iter()
                .any(|m| m.target == b.join("inner") && m.kind == "tmpfs")
        );
        Kernel.set_read_only_recursive(&b)?;
        assert!(std::fs::write(b.join("x"), "").is_err() && std::fs::write(b.join("inner/x"), "").is_err());
        std::fs::write(a.join("x"), "").unwrap();
        Kernel.mount(&Mount::bind(&a, &c))?;
        Kernel.mount(&Mount::read_only(&c))?;
        assert!(std::fs::write(c.join("x"), "").is_err());
        assert_eq!(
            Kernel.unmount(&a, Unmount::Plain).unwrap_err().errno(),
            Some(libc::EBUSY)
        );
        assert_eq!(unmount_under(&Kernel, &b)?, 2);
        assert!(!Kernel.unmount(&b, Unmount::Plain)?, "nothing there any more");
        Ok(())
    });
}

#[test]
fn an_overlay_may_have_more_layers_than_fit_a_page() {
    in_own_mounts(|dir| {
        let layers: Vec<PathBuf> = (0..100)
            .map(|n| dir.join(format!("layer-with-a-rather-long-name-{n:03}-{}", "x".repeat(20))))
            .collect();
        for (n, layer) in layers.iter().enumerate() {
            std::fs::create_dir(layer).unwrap();
            std::fs::write(layer.join(n.to_string()), "").unwrap();
            std::fs::write(layer.join("same"), n.to_string()).unwrap();
        }
        let [upper, work, target] = ["upper", "work", "merged"].map(|name| dir.join(name));
        for path in [&upper, &work, &target] {
            std::fs::create_dir(path).unwrap();
        }
        let overlay = Mount::Overlay {
            lower: layers,
            upper: Some(OverlayUpper {
                dir: upper.clone(),
                work,
            }),
            target: target.clone(),
            options: String::new(),
        };
        match Kernel.mount(&overlay) {
            // Kernels before 6.7 take no single layers.
            Err(error) if error.errno() == Some(libc::EINVAL) => {
                println!("skipped: {}", error.chain());
                return Ok(());
            }
            other => other?,
        }
        assert_eq!(std::fs::read_dir(&target).unwrap().count(), 101);
        assert_eq!(
            std::fs::read_to_string(target.join("same")).unwrap(),
            "0",
            "the first is on top"
        );
        std::fs::write(target.join("new"), "").unwrap();
        assert!(upper.join("new").exists());
        Ok(())
    });
}
