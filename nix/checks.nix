# What `nix flake check` builds: the package and its linters, every example configuration as a
# whole NixOS system, and one virtual machine per script in nix/tests.
{
  lib,
  pkgs,
  self,
}:
let
  package = self.packages.${pkgs.stdenv.hostPlatform.system}.default;

  # The package's sources and vendored dependencies, with another command in place of the build.
  cargoCheck =
    name: tools: command:
    package.overrideAttrs (old: {
      pname = "ci-runner-${name}";
      nativeBuildInputs = old.nativeBuildInputs ++ tools;
      buildPhase = command;
      doCheck = false;
      installPhase = "touch $out";
    });

  nixosSystem =
    configuration:
    lib.nixosSystem {
      modules = [
        self.nixosModules.default
        configuration
        {
          nixpkgs.hostPlatform = pkgs.stdenv.hostPlatform.system;
          boot.loader.grub.enable = false;
          fileSystems."/".device = "/dev/disk/by-label/root";
          fileSystems."/".fsType = "ext4";
          system.stateVersion = "26.05";
        }
      ];
    };

  configurations = import ./tests/configurations;

  accepted = lib.mapAttrs' (
    name: configuration:
    lib.nameValuePair "configuration-${name}" (nixosSystem configuration).config.system.build.toplevel
  ) configurations.accepted;

  # Only that they are refused: Nix cannot read the words of an error. scripts/check-nix can.
  refused = lib.mapAttrs' (
    name: case:
    lib.nameValuePair "refused-${name}" (
      assert
        !(builtins.tryEval (nixosSystem case.configuration).config.system.build.toplevel.drvPath).success;
      pkgs.runCommand "refused-${name}" { } "touch $out"
    )
  ) configurations.refused;

  machines = lib.genAttrs' (import ./tests/scripts.nix) (
    name: lib.nameValuePair "vm-${name}" (import ./tests/${name}.nix { inherit pkgs self; })
  );
in
{
  inherit package;
  clippy = cargoCheck "clippy" [
    pkgs.clippy
  ] "cargo clippy --offline --workspace --all-targets -- -D warnings";
  fmt = cargoCheck "fmt" [ pkgs.rustfmt ] "cargo fmt --all --check";
  rules = pkgs.runCommand "ci-runner-rules" { nativeBuildInputs = [ pkgs.prometheus.cli ]; } ''
    cd ${../monitoring/prometheus}
    promtool check rules ci-runner.rules.yml
    promtool test rules ci-runner.tests.yml
    touch $out
  '';
  nixfmt = pkgs.runCommand "ci-runner-nixfmt" { nativeBuildInputs = [ pkgs.nixfmt ]; } ''
    find ${
      lib.fileset.toSource {
        root = ../.;
        fileset = lib.fileset.fileFilter (file: file.hasExt "nix") ../.;
      }
    } -name '*.nix' -exec nixfmt --check {} +
    touch $out
  '';
}
// accepted
// refused
// machines
