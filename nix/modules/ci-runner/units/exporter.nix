# `ci-runner-exporter.service`, where figures are served or written.
{ config, lib, ... }:
let
  inherit (lib) mkDefault;
  cfg = config.services.ci-runner;
  inherit (import ../lib/derived.nix { inherit config lib; }) hasExporter;
in
{
  config = lib.mkIf (cfg.enable && hasExporter) {
    # Host and daemon on one port, also while the daemon is down. It sees the host as it is: that is why
    # the daemon, which is shut in, does not serve this itself.
    systemd.services.ci-runner-exporter = {
      description = "Metrics of the job runner and its host";
      wantedBy = [ "multi-user.target" ];
      after = [ "network.target" ];
      restartTriggers = [ (builtins.toJSON cfg.settings.metrics) ];
      startLimitIntervalSec = 0;

      serviceConfig = {
        Slice = "ci_runner.slice";
        Type = "notify";
        ExecStart = "${lib.getExe cfg.package} exporter --config /etc/ci-runner/config.toml --socket /run/ci-runner/api.sock";
        User = "ci-runner-exporter";
        Group = "ci-runner";
        UMask = mkDefault "0077";
        Restart = "always";
        RestartSec = mkDefault "1s";
        MemoryMax = mkDefault "64M";
        TasksMax = mkDefault 128; # a thread for each connection, of which there are 64 at most

        NoNewPrivileges = true;
        CapabilityBoundingSet = "";
        AmbientCapabilities = "";
        DevicePolicy = mkDefault "closed";
        RestrictAddressFamilies = mkDefault [
          "AF_UNIX" # the daemon, the system bus
          "AF_INET"
          "AF_INET6"
        ];
        RestrictNamespaces = mkDefault true;
        RestrictRealtime = mkDefault true;
        RestrictSUIDSGID = mkDefault true;
        LockPersonality = mkDefault true;
        MemoryDenyWriteExecute = mkDefault true;
        KeyringMode = mkDefault "private";
        RemoveIPC = mkDefault true;
        SystemCallArchitectures = mkDefault "native";
        SystemCallFilter = mkDefault [
          "@system-service"
          "~@privileged @resources"
          "adjtimex" # how well the clock is kept; without a capability it only reads
          "clock_adjtime"
        ];
        SystemCallErrorNumber = mkDefault "EPERM";

        # Left as they are, each for a reason:
        # ProtectSystem, ProtectHome, PrivateTmp, PrivateDevices, ProtectKernelTunables, ProtectKernelModules,
        #   ProtectKernelLogs, ProtectControlGroups, ProtectProc: each gives it mounts of its own, and then
        #   node_filesystem_* would tell of those (all read-only, say), not of the host's.
        # ProtectHostname: the name of the host would stay what it was at the start.
        # ProtectClock: it takes the calls that read the clock's state, too.
        # ProcSubset, PrivateNetwork, PrivateUsers: the figures are there, and the socket tells users apart.
        # IPAddressDeny: who may come is metrics.listenAddress and the firewall.
      };
    };
  };
}
