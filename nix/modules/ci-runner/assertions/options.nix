# What no type can see: options that do not fit each other, or another service. Each message names the option and what to do;
# lists are looked at with `all`, so that they may be empty.
{ config, lib, ... }:
let
  cfg = config.services.ci-runner;
  inherit (import ../lib/derived.nix { inherit config lib; }) personal slotUsers;

  isLoopback = address: lib.hasPrefix "127." address || address == "::1";

  # Keys that follow the unit's own directories.
  unitKeys = [
    "state_dir"
    "runtime_dir"
    "socket"
  ];

  # NixOS numbers system users from 400 to 999, those of all services together.
  slotUsersMax = 400;

  # Other services of this machine that may have taken the port of the metrics.
  portHolders = lib.filter (holder: holder.enable) [
    {
      name = "services.prometheus.exporters.node";
      inherit (config.services.prometheus.exporters.node) enable port;
    }
  ];
in
{
  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = cfg.enableMetrics -> lib.all (holder: holder.port != cfg.metrics.port) portHolders;
        message = ''
          services.ci-runner.metrics.port: ${toString cfg.metrics.port} is also the port of ${
            lib.concatMapStringsSep ", " (holder: holder.name) portHolders
          }.
          Set services.ci-runner.metrics.port to a free one (9101, say), or services.ci-runner.enableMetrics = false.
        '';
      }
      {
        assertion = cfg.openFirewall -> cfg.enableMetrics && !isLoopback cfg.metrics.listenAddress;
        message = ''
          services.ci-runner.openFirewall opens the port of the metrics, and nothing is served there to other machines.
          Set services.ci-runner.metrics.listenAddress (now ${cfg.metrics.listenAddress}) to an address that they
          can reach and leave services.ci-runner.enableMetrics on, or leave openFirewall off.
        '';
      }
      {
        assertion = cfg.maxTimeout != null -> cfg.defaultTimeout <= cfg.maxTimeout;
        message = ''
          services.ci-runner.defaultTimeout (${toString cfg.defaultTimeout}) is longer than services.ci-runner.maxTimeout (${toString cfg.maxTimeout}).
          Lower the first or raise the second.
        '';
      }
      {
        assertion = lib.all (
          pool: pool ? user && pool ? paths && (pool.executor or cfg.executor) == "systemd"
        ) (lib.attrValues personal);
        message = ''
          services.ci-runner.pools: ${lib.concatStringsSep ", " (lib.attrNames personal)} have user or paths; a pool that
          runs as a person needs both, and executor = "systemd".
        '';
      }
      {
        assertion = lib.all (pool: config.users.users ? ${pool.user or ""}) (lib.attrValues personal);
        message = ''
          services.ci-runner.pools: a pool's user (${
            lib.concatMapStringsSep ", " (pool: pool.user or "none") (lib.attrValues personal)
          }) is not among users.users. Declare that user there.
        '';
      }
      {
        assertion = lib.all (schedule: (schedule.command == null) != (schedule.shell == null)) (
          lib.attrValues cfg.schedules
        );
        message = ''
          services.ci-runner.schedules: ${
            lib.concatStringsSep ", " (
              lib.attrNames (
                lib.filterAttrs (_: schedule: (schedule.command == null) == (schedule.shell == null)) cfg.schedules
              )
            )
          }: a schedule needs either command or shell, and not both.
        '';
      }
      {
        assertion = lib.all (name: lib.stringLength name <= 31) slotUsers;
        message = ''
          services.ci-runner.slotUsers: ${
            toString (lib.filter (name: lib.stringLength name > 31) slotUsers)
          } are too long for names of users; give those pools names of at most 12 characters,
          or set services.ci-runner.slotUsers = false.
        '';
      }
      {
        assertion = lib.length slotUsers <= slotUsersMax;
        message = ''
          services.ci-runner.slotUsers: ${toString (lib.length slotUsers)} slots of native jobs would need as many system users, and NixOS has numbers
          for few of them. Lower maxParallelJobs or slots of pools to ${toString slotUsersMax} in all, let them run as units (executor = "systemd"), or set
          services.ci-runner.slotUsers = false.
        '';
      }
      {
        assertion = lib.all (key: !cfg.settings ? ${key}) unitKeys;
        message = ''
          services.ci-runner.settings: ${lib.concatStringsSep ", " unitKeys} cannot be set here, the unit gives the daemon
          /var/lib/ci-runner and /run/ci-runner. To keep the state on another disk, mount it at /var/lib/ci-runner.
        '';
      }
    ];
  };
}
