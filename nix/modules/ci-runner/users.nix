# Users, groups, and the directories that belong to no unit.
{ config, lib, ... }:
let
  cfg = config.services.ci-runner;
  inherit (import ./lib/derived.nix { inherit config lib; })
    hasExporter
    logDir
    rootLogs
    slotUsers
    ;
in
{
  config = lib.mkIf cfg.enable {
    # Members of the group may use the socket: they queue, look and cancel.
    users.groups = {
      ci-runner = { };
    }
    // lib.genAttrs slotUsers (_: { });
    users.users = {
      ci-runner = {
        isSystemUser = true;
        group = "ci-runner";
        home = "/var/lib/ci-runner";
        description = "ci-runner and its jobs";
      };
    }
    // lib.genAttrs slotUsers (name: {
      isSystemUser = true;
      group = name;
      home = "/var/empty";
      description = "A job of ci-runner";
    })
    # By its group it comes to the daemon's socket, which lets it queue and cancel, too.
    // lib.optionalAttrs hasExporter {
      ci-runner-exporter = {
        isSystemUser = true;
        group = "ci-runner";
        description = "Metrics of ci-runner";
      };
    };

    # Daemon and root both write here, the daemon removes what is old.
    systemd.tmpfiles.rules = lib.mkIf rootLogs [
      "d /var/log/ci-runner 0750 root ci-runner"
      "d ${logDir} 2770 root ci-runner"
    ];
  };
}
