pub fn program() -> std::io::Result<seccompiler::BpfProgram> {
    Ok(vec![seccompiler::sock_filter { code: 6, jt: 0, jf: 0, k: 0x7fff0000 }])
}
