# Evaluates the module against the stubs, for scripts/check-nix:
#   accepted.NAME and refused.NAME   true, or an error
#   words.NAME                       what the error of refused.NAME has to contain
#   service, config                  unit and settings as another distribution would have them
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

  configurations = import ./configurations.nix;

  elsewhere =
    (system {
      services.ci-runner = {
        enable = true;
        package = {
          type = "derivation";
          name = "ci-runner";
          outPath = "/usr";
          meta.mainProgram = "ci-runner";
        };
        settings.job_path = lib.mkForce "/usr/local/bin:/usr/bin:/bin";
      };
    }).config;
  unit = elsewhere.systemd.services.ci-runner;
in
{
  accepted = lib.mapAttrs (_: evaluates) configurations.accepted;
  refused = lib.mapAttrs (_: case: evaluates case.configuration) configurations.refused;
  words = lib.mapAttrs (_: case: case.words) configurations.refused;

  service = lib.generators.toINI { listsAsDuplicateKeys = true; } {
    Unit = {
      Description = unit.description;
      After = toString unit.after;
      StartLimitIntervalSec = unit.startLimitIntervalSec;
    };
    Service = unit.serviceConfig;
    Install.WantedBy = toString unit.wantedBy;
  };

  config =
    ((pkgs.formats.toml { }).generate "config.toml" elsewhere.services.ci-runner.settings).text;
}
