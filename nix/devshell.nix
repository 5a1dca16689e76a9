# Everything that scripts/test and scripts/check-nix look for.
{
  mkShell,
  cargo,
  cargo-deny,
  cargo-nextest,
  clippy,
  deadnix,
  nixfmt,
  python3,
  rust-analyzer,
  rustc,
  rustfmt,
}:
mkShell {
  packages = [
    cargo
    cargo-deny
    cargo-nextest
    clippy
    deadnix
    nixfmt
    (python3.withPackages (ps: [ ps.pyflakes ]))
    rust-analyzer
    rustc
    rustfmt
  ];
}
