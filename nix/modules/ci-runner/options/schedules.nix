# Jobs at fixed times.
{ lib, pkgs, ... }:
let
  inherit (lib) mkOption types;

  toml = pkgs.formats.toml { };
in
{
  options.services.ci-runner = {
    schedules = mkOption {
      default = { };
      example = {
        nightly = {
          calendar = "30 2 * * *";
          timezone = "Europe/Berlin";
          command = [
            "make"
            "-C"
            "/srv/project"
            "nightly"
          ];
          job.timeout = "2h";
        };
      };
      description = ''
        Jobs at fixed times. They belong to the configuration: `ci-runner schedule rm` refuses them, what is removed here is gone
        with the next switch; a pause (`ci-runner schedule pause`) is remembered.
      '';
      type = types.attrsOf (
        types.submodule {
          options = {
            calendar = mkOption {
              type = types.nonEmptyStr;
              example = "Mon..Fri 03:00";
              description = ''
                When: five to seven fields of cron, or systemd's words for calendars. Checked while the system is built.
              '';
            };

            timezone = mkOption {
              type = types.nullOr types.nonEmptyStr;
              default = null;
              example = "Europe/Berlin";
              description = "Time zone of {option}`calendar`; `null` is the host's.";
            };

            command = mkOption {
              type = types.nullOr (types.nonEmptyListOf types.str);
              default = null;
              example = [
                "make"
                "nightly"
              ];
              description = "Program and arguments, run without a shell.";
            };

            shell = mkOption {
              type = types.nullOr types.nonEmptyStr;
              default = null;
              example = "cd /srv/project && make nightly";
              description = "A text for `sh -c`, in place of {option}`command`.";
            };

            overlap = mkOption {
              type = types.enum [
                "skip"
                "queue"
                "cancel"
                "allow"
              ];
              default = "skip";
              description = ''
                What is done when it is time and the last job is not over: leave this run out, queue it behind, cancel the last
                one, or let both run.
              '';
            };

            missed = mkOption {
              type = types.enum [
                "skip"
                "once"
                "all"
              ];
              default = "once";
              description = "What becomes of runs that were missed while the machine was off: none, one, or all of them.";
            };

            job = mkOption {
              type = toml.type;
              default = { };
              example = {
                pool = "default";
                timeout = "2h";
                retry = 1;
              };
              description = "More about its jobs: the keys that a job has in the HTTP API.";
            };
          };
        }
      );
    };
  };
}
