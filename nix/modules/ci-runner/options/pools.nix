# Capacity: the default pool, named ones, and as whom their jobs run.
{ lib, ... }:
let
  inherit (lib) mkOption types;
  inherit (import ../lib/types.nix { inherit lib; })
    executor
    label
    profile
    slots
    ;
in
{
  options.services.ci-runner = {
    maxParallelJobs = mkOption {
      type = slots;
      default = 4;
      description = "How many jobs of the default pool run at the same time.";
    };

    executor = mkOption {
      type = executor;
      default = "systemd";
      description = ''
        How jobs of the pool `default` run: each as a transient unit with a user, a cgroup and a sandbox of
        its own, or (`native`) as processes, see {option}`slotUsers`. Other pools say it by {option}`executor` in
        {option}`services.ci-runner.settings.pools`.
      '';
    };

    pools = mkOption {
      default = { };
      example = {
        strict = {
          slots = 2;
          executor = "systemd";
          profiles = [ "strict" ];
        };
        ada = {
          slots = 4;
          executor = "systemd";
          user = "ada";
          paths = [ "/home/ada/src" ];
        };
      };
      description = ''
        Named capacity, with what root decides of it. Everything here also goes to
        {option}`services.ci-runner.settings.pools`, where a pool's other keys can be set.
      '';
      type = types.attrsOf (
        types.submodule {
          options = {
            slots = mkOption {
              type = types.nullOr slots;
              default = null;
              description = ''
                How many jobs of this pool run at the same time. Needed for every pool but `default`.
              '';
            };

            executor = mkOption {
              type = types.nullOr executor;
              default = null;
              description = "How its jobs run; `null` is {option}`services.ci-runner.executor`.";
            };

            labels = mkOption {
              type = types.nullOr (types.listOf label);
              default = null;
              example = [ "gpu" ];
              description = "What this pool offers, as `key` or `key=value`.";
            };

            profile = mkOption {
              type = types.nullOr profile;
              default = null;
              description = "Sandbox of jobs that choose none; `null` is the first of {option}`profiles`, or `build`.";
            };

            profiles = mkOption {
              type = types.nullOr (types.listOf profile);
              default = null;
              example = [
                "build"
                "open"
              ];
              description = "Sandboxes that a job may choose; `null` is {option}`profile` and `strict`.";
            };

            user = mkOption {
              type = types.nullOr types.str;
              default = null;
              example = "ada";
              description = ''
                Run its jobs as this user, so that they can build a person's tree. Needs
                {option}`paths` and the executor `systemd`.
              '';
            };

            paths = mkOption {
              type = types.nullOr (types.listOf types.path);
              default = null;
              example = [ "/home/ada/src" ];
              description = ''
                The directories of {option}`user` that its jobs see and may write to. Each belongs to
                that user, is not a symbolic link, and is not inside of another.
              '';
            };

            degrade = mkOption {
              type = types.bool;
              default = false;
              description = ''
                Whether its jobs run although the kernel or systemd does not give their sandbox all that
                its profile says; the job's log then says what is missing. Otherwise they fail to start.
              '';
            };

            submitters = mkOption {
              type = types.nullOr (types.listOf types.str);
              default = null;
              example = [
                "ada"
                "bob"
              ];
              description = ''
                Users who may submit to this pool, beside root. `null` is {option}`user` where there
                is one, else everybody who may use the socket. Such a pool takes only jobs that name
                it or whose directory is in {option}`paths`.
              '';
            };
          };
        }
      );
    };

    slotUsers = mkOption {
      type = types.bool;
      default = true;
      description = ''
        Whether native jobs run under a system user per slot, `ci-runner-job-…`, started by
        `ci-runner-jobs.service` (root) in place of the daemon. Then no job can reach another one's
        processes or the daemon's files, and the daemon's own service is hardened in full. Without
        it they are the daemon's own user: for people who trust each other and their code, and for
        jobs that write to trees of that user. Jobs that run while it is changed go on with the
        spawner that they began with.
      '';
    };
  };
}
