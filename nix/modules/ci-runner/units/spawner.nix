# `ci-runner-spawner.service`, root's, where pools have jobs that are units, and the policy that it obeys.
{ config, lib, ... }:
let
  inherit (lib) mkDefault;
  cfg = config.services.ci-runner;
  inherit (import ../lib/derived.nix { inherit config lib; })
    logDir
    personal
    policy
    unitPools
    ;
in
{
  config = lib.mkIf (cfg.enable && unitPools != { }) {
    # Root's word on what the daemon may have started: by pool, the sandboxes that may be used there.
    environment.etc."ci-runner/policy.json".text = policy;

    # Starts the units of jobs. No switch restarts it; a reload executes the new package's program in
    # the same process. Root without a capability: its doors are D-Bus and cgroup.kill.
    systemd.services.ci-runner-spawner = {
      description = "Starts the jobs of ci-runner as units";
      wantedBy = [ "multi-user.target" ];
      wants = [ "dbus.socket" ];
      after = [ "dbus.socket" ];
      reloadTriggers = [ policy ];
      restartIfChanged = false;
      unitConfig.X-StopOnRemoval = false;
      startLimitIntervalSec = 0;

      serviceConfig = {
        Type = "notify";
        # A fixed path: then a new package changes nothing but the reload triggers.
        ExecStart = "/run/current-system/sw/bin/ci-runner-spawner --policy /etc/ci-runner/policy.json";
        ExecReload = "/bin/sh -c 'kill -HUP $MAINPID'";
        Group = "ci-runner";
        Restart = "always";
        RestartSec = mkDefault "200ms";
        KillMode = "process"; # shims stay, the next spawner finds them
        RuntimeDirectory = "ci-runner-spawner";
        RuntimeDirectoryMode = "0711";
        RuntimeDirectoryPreserve = "yes";
        Slice = "ci_runner.slice";
        OOMScoreAdjust = mkDefault (-900);

        NoNewPrivileges = true;
        # Where pools run as people it looks at their directories, whatever their modes: a link or
        # another's directory in their place is refused. It reads no file, and who has taken it over
        # can have any unit of root's started over D-Bus, so this gives nothing more.
        CapabilityBoundingSet = if personal == { } then "" else "CAP_DAC_READ_SEARCH";
        ProtectSystem = "strict";
        ReadWritePaths = [
          logDir
          "/sys/fs/cgroup"
        ];
        ProtectHome = if personal == { } then true else "read-only";
        PrivateTmp = true;
        PrivateDevices = true;
        PrivateNetwork = true;
        ProtectKernelModules = true;
        ProtectKernelLogs = true;
        ProtectClock = true;
        ProtectHostname = true;
        RestrictAddressFamilies = [ "AF_UNIX" ];
        RestrictNamespaces = true;
        RestrictRealtime = true;
        RestrictSUIDSGID = true;
        LockPersonality = true;
        MemoryDenyWriteExecute = true;
        SystemCallArchitectures = "native";
        SystemCallFilter = [ "@system-service" ];
        SystemCallErrorNumber = "EPERM";
        IPAddressDeny = "any";
      };
    };
  };
}
