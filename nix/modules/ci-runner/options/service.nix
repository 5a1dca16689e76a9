# The service itself: whether there is one, of which package, what it is given in secret, and how much it says.
{ lib, pkgs, ... }:
let
  inherit (lib) mkOption types;
  inherit (import ../lib/types.nix { inherit lib; }) secretFile;
in
{
  options.services.ci-runner = {
    enable = lib.mkEnableOption "ci-runner, a job runner whose jobs outlive its own restarts";

    package =
      lib.mkPackageOption { ci-runner = pkgs.callPackage ../../../package.nix { }; } "ci-runner"
        {
          pkgsText = "ci-runner.packages.\${system}";
        };

    credentials = mkOption {
      type = types.attrsOf secretFile;
      default = { };
      example = {
        ops-hook = "/run/secrets/ops-hook";
      };
      description = ''
        Secrets of the daemon by name: files that only root has to be able to read (`LoadCredential=`). A notifier names one
        as {option}`secretCredential`; programs of notifiers find them in `/run/credentials/ci-runner.service`. They are read
        when the service starts, which it does not while one is missing. Never files of the Nix store.
      '';
    };

    logLevel = mkOption {
      type = types.enum [
        "debug"
        "info"
        "warn"
        "error"
      ];
      default = "info";
      description = "The least important message of the daemon that goes to the journal.";
    };
  };
}
