//! `ccq-convert`; what it does is in the library of the same name.

fn main() -> ccq_cli::Exit {
    ccq_convert::main()
}
