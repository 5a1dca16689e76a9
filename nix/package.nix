# The package: daemon and client in one binary, the spawner beside it (the daemon looks for it
# there), the small `add_job`, man pages and completions as the binary itself writes them.
{
  lib,
  stdenv,
  rustPlatform,
  installShellFiles,
}:
let
  manifest = lib.importTOML ../Cargo.toml;
in
rustPlatform.buildRustPackage {
  pname = "ci-runner";
  inherit (manifest.workspace.package) version;

  src = lib.fileset.toSource {
    root = ../.;
    fileset = lib.fileset.unions [
      ../Cargo.toml
      ../Cargo.lock
      ../clippy.toml
      ../rustfmt.toml
      ../src
      # What `install` carries.
      ../nix/rendered/install
      ../nix/rendered/install-both
      ../nix/rendered/install-slots
      ../monitoring
      # Written by the code and compared in its tests, or read by them.
      (lib.fileset.maybeMissing ../docs/state-machine.md)
      (lib.fileset.maybeMissing ../docs/reference/metrics.md)
    ];
  };

  cargoLock.lockFile = ../Cargo.lock;

  cargoBuildFlags = [ "--package=ci-runner" ];

  # Decisions and their simulation need nothing of the machine. Everything that starts processes
  # is tested outside of the build sandbox: scripts/test, and the VM tests in nix/tests.
  cargoTestFlags = [
    "--package=ci-runner-core"
    "--package=ci-runner-sim"
  ];

  nativeBuildInputs = [ installShellFiles ];

  postInstall = ''
    install -Dm644 -t $out/share/ci-runner/prometheus monitoring/prometheus/ci-runner.rules.yml
    install -Dm644 -t $out/share/ci-runner/grafana monitoring/grafana/ci-runner.json
  ''
  + lib.optionalString (stdenv.buildPlatform.canExecute stdenv.hostPlatform) ''
    $out/bin/ci-runner man --dir man
    installManPage man/*
    installShellCompletion --cmd ci-runner \
      --bash <($out/bin/ci-runner completions bash) \
      --zsh <($out/bin/ci-runner completions zsh) \
      --fish <($out/bin/ci-runner completions fish)
  '';

  meta = {
    description = "Self-hosted job runner whose jobs outlive everything that happens to it";
    homepage = manifest.workspace.package.repository;
    license = [
      lib.licenses.mit
      lib.licenses.asl20
    ];
    mainProgram = "ci-runner";
    platforms = lib.platforms.linux;
  };
}
