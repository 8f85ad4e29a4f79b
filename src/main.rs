fn main() -> std::process::ExitCode {
    rl::main()
}
