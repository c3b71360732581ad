//! `countersignd`, the appliance. Everything is in the library; `countersign::cli` is the way in.

fn main() -> std::process::ExitCode {
    countersign::cli::run()
}
