//! Strips the released executable.
//!
//! A package with settings of its own in the profile (here: built small) does not get the profile's `strip`, so the linker
//! is told.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("PROFILE").as_deref() == Ok("release") {
        println!("cargo::rustc-link-arg-bins=-Wl,--strip-all");
    }
}
