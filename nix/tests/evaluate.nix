# Evaluates the module against the stubs, for scripts/check-nix:
#   accepted.NAME and refused.NAME   true, or an error
#   words.NAME                       what the error of refused.NAME has to contain
#   renderings                       files as another distribution has them, by path below nix/:
#                                    one unit and its settings under /usr for packagers, and for
#                                    each test script the system that its guest gets, and what
#                                    `ci-runner install` carries; the page of the options
{ lib }:
let
  pkgs = import ./stub/pkgs.nix {
    inherit lib;
    system = "x86_64-linux";
  };

  system =
    configuration:
    import ./stub/system.nix { inherit lib pkgs; } {
      imports = [
        ../modules/ci-runner.nix
        configuration
      ];
    };
  evaluates = configuration: (system configuration).config.system.build.toplevel ? drvPath;

  configurations = import ./configurations;

  # As a machine that is not NixOS has it: the package where `prefix` says, everybody's PATH.
  elsewhere = prefix: {
    services.ci-runner = {
      package = lib.mkOverride 10 {
        type = "derivation";
        name = "ci-runner";
        outPath = prefix;
        meta.mainProgram = "ci-runner";
      };
      settings.job_path = lib.mkForce "/usr/local/bin:/usr/bin:/bin";
    };
  };

  render = prefix: renderFor prefix prefix;
  renderFor =
    fixed: prefix: configuration:
    let
      inherit
        (system {
          imports = [
            configuration
            (elsewhere prefix)
          ];
        })
        config
        ;
    in
    import ./render.nix { inherit lib; } {
      inherit config fixed;
      package = prefix;
      settings =
        let
          cfg = config.services.ci-runner;
          derived = import ../modules/ci-runner/lib/derived.nix { inherit config lib; };
          settings = if cfg.enable then derived.settings else cfg.settings;
        in
        ((pkgs.formats.toml { }).generate "config.toml" settings).text;
    };

  # The machine of a test, without its driver.
  machine =
    name:
    (import ./${name}.nix {
      pkgs = pkgs // {
        testers.runNixOSTest = lib.id;
      };
      self.nixosModules.default = ../modules/ci-runner.nix;
    }).nodes.machine;

  default = render "/usr" { services.ci-runner.enable = true; };

  # What `ci-runner install` carries, for wherever it puts the programs.
  install = render "@prefix@" {
    services.ci-runner = {
      enable = true;
      executor = "systemd";
    };
  };

  # The same with native jobs under users of their own: of one slot, which `ci-runner install` makes as many as are asked for.
  installSlots = render "@prefix@" {
    services.ci-runner = {
      enable = true;
      executor = "native";
      slotUsers = true;
      maxParallelJobs = 1;
    };
  };

  # And with both, as on the machines of the tests that have both: one slot again.
  installBoth = render "@prefix@" {
    imports = [ ./common/both-executors.nix ];
    services.ci-runner.settings.pools.native.slots = 1;
  };
  # The systems that a machine can switch to. Another package has another place.
  specialisations =
    configuration:
    let
      inherit ((system configuration).config) services specialisation;
      other =
        special:
        let
          whole = {
            imports = [
              configuration
              special.configuration
            ];
          };
          isSame = (system whole).config.services.ci-runner.package == services.ci-runner.package;
        in
        renderFor "/opt/ci" (if isSame then "/opt/ci" else "/opt/next") whole;
    in
    lib.concatMapAttrs (
      name: special:
      lib.mapAttrs' (path: lib.nameValuePair "specialisation/${name}/${path}") (other special)
    ) specialisation;

  under = name: lib.mapAttrs' (path: lib.nameValuePair "rendered/${name}/${path}");
in
{
  accepted = lib.mapAttrs (_: evaluates) configurations.accepted;
  refused = lib.mapAttrs (_: case: evaluates case.configuration) configurations.refused;
  words = lib.mapAttrs (_: case: case.words) configurations.refused;

  renderings = {
    "../docs/reference/options.md" = import ./options.nix {
      inherit lib;
    } (system { }).options.services.ci-runner;
    "tests/expected/ci-runner.service" = default."etc/systemd/system/ci-runner.service";
    "tests/expected/config.toml" = default."etc/ci-runner/config.toml";
  }
  // under "install" install
  // under "install-slots" installSlots
  // under "install-both" installBoth
  // lib.concatMapAttrs (
    name: _: under name (render "/opt/ci" (machine name) // specialisations (machine name))
  ) (lib.genAttrs (import ./scripts.nix) (_: null));
}
