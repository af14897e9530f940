//! Links the program at a fixed address: it is the first process of every sandbox, and each would spend 2 ms and 1 MB of memory
//! of its own on 67,000 relocations.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|found| found.split(',').any(|part| part == value));
    if is("CARGO_CFG_TARGET_OS", "linux") && is("CARGO_CFG_TARGET_ENV", "gnu") && is("CARGO_CFG_TARGET_FEATURE", "crt-static") {
        for argument in ["-no-pie", "-static"] {
            println!("cargo:rustc-link-arg-bins={argument}");
        }
    }
}
