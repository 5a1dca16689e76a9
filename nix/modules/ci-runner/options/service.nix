# The service itself: whether there is one, of which package, and how much it says.
{ lib, pkgs, ... }:
let
  inherit (lib) mkOption types;
in
{
  options.services.ci-runner = {
    enable = lib.mkEnableOption "ci-runner, a job runner whose jobs outlive its own restarts";

    package =
      lib.mkPackageOption { ci-runner = pkgs.callPackage ../../../package.nix { }; } "ci-runner"
        {
          pkgsText = "ci-runner.packages.\${system}";
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
