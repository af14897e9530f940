use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything else: inside a sandbox only this small server runs.
    let args: Vec<_> = std::env::args_os().collect();
    if args.get(1).is_some_and(|word| word == "toolbox") {
        return sweroll::toolbox::main(&args[2..]);
    }
    if args.get(1).is_some_and(|word| word == "launcher") {
        return sweroll::sandbox::native::launcher::main();
    }
    sweroll::cli::main()
}
