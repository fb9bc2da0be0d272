fn main() -> std::process::ExitCode {
    arvados::cli::main()
}
