//! Compiles `proto/`.

fn main() -> std::io::Result<()> {
    prost_build::compile_protos(&["proto/runc_options.proto"], &["proto"])
}
