# What holds for every job that does not say otherwise, and what it finds on its PATH.
{ lib, ... }:
let
  inherit (lib) mkOption types;

  # The daemon's own limits.
  retries = types.ints.between 0 1000;
  secondsOfADay = types.ints.between 0 86400;
in
{
  options.services.ci-runner = {
    retryAttempts = mkOption {
      type = retries;
      default = 3;
      description = "How often a failed job is tried again, after its first attempt, unless it says otherwise.";
    };

    retryDelay = mkOption {
      type = secondsOfADay;
      default = 5;
      description = "Seconds between the end of an attempt and the next one.";
    };

    defaultTimeout = mkOption {
      type = types.ints.positive;
      default = 21600;
      description = "Seconds after which an attempt is ended, unless its job says otherwise.";
    };

    maxTimeout = mkOption {
      type = types.nullOr types.ints.positive;
      default = null;
      example = 86400;
      description = "The longest timeout in seconds that a job may ask for; `null` sets no limit.";
    };

    extraPackages = mkOption {
      type = types.listOf types.package;
      default = [ ];
      example = lib.literalExpression "[ pkgs.gcc pkgs.gnumake pkgs.nodejs ]";
      description = ''
        Packages on the PATH of jobs, besides a shell, the core utilities, git, tar, gzip and xz.
      '';
    };
  };
}
