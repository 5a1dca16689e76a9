# A stand-in for the packages of nixpkgs, enough to evaluate with: every package is a derivation
# that nobody can build.
{ lib, system }:
let
  fake =
    name:
    derivation {
      inherit name system;
      builder = "stub";
    }
    // {
      inherit name;
      meta.mainProgram = name;
      override = _: fake name;
      overrideAttrs = _: fake "${name}-overridden";
    };

  # What is handed over is evaluated in full, as a build would.
  fakeFrom = name: arguments: builtins.deepSeq arguments (fake name);

  platform = {
    inherit system;
    canExecute = _: true;
  };

  # JSON's scalars and lists are TOML's; tables are written in one line.
  inlineTable =
    table:
    "{ ${
      lib.concatStringsSep ", " (lib.mapAttrsToList (key: value: "${key} = ${toToml value}") table)
    } }";
  toToml = value: if lib.isAttrs value then inlineTable value else builtins.toJSON value;

  tomlType =
    with lib.types;
    oneOf [
      bool
      int
      float
      str
      (attrsOf tomlType)
      (listOf tomlType)
    ]
    // {
      description = "TOML value";
    };

  packages = {
    inherit lib;
    stdenv = {
      hostPlatform = platform;
      buildPlatform = platform;
    };
    rustPlatform.buildRustPackage =
      arguments: fakeFrom arguments.pname arguments // { inherit (arguments) meta version; };
    callPackage =
      file: extra:
      let
        function = import file;
      in
      function (builtins.intersectAttrs (builtins.functionArgs function) packages // extra);
    mkShell = fakeFrom "shell";
    runCommand =
      name: environment: command:
      fakeFrom name [
        environment
        command
      ];
    formats.toml = _: {
      type = tomlType;
      generate =
        name: table:
        fakeFrom name table
        // {
          text = lib.concatStrings (
            lib.mapAttrsToList (key: value: "${key} = ${toToml value}\n") (
              lib.filterAttrs (_: value: value != { }) table
            )
          );
        };
    };
    testers.runNixOSTest =
      test:
      fakeFrom test.name [
        test.testScript
        (lib.mapAttrs (
          _: node:
          (import ./system.nix {
            inherit lib;
            pkgs = packages;
          } node).config.system.build.toplevel.drvPath
        ) test.nodes)
      ];
  }
  // lib.genAttrs [
    "bash"
    "cargo"
    "cargo-deny"
    "cargo-nextest"
    "clippy"
    "coreutils"
    "deadnix"
    "diffutils"
    "findutils"
    "gawk"
    "gcc"
    "git"
    "gnugrep"
    "gnused"
    "gnutar"
    "gzip"
    "installShellFiles"
    "nixfmt"
    "nixfmt-tree"
    "procps"
    "rust-analyzer"
    "rustc"
    "rustfmt"
    "systemd"
    "tzdata"
    "util-linux"
    "xz"
  ] fake
  // {
    prometheus.cli = fake "prometheus";
    python3.withPackages =
      select:
      fakeFrom "python3" (select {
        pyflakes = fake "pyflakes";
      });
  };
in
packages
