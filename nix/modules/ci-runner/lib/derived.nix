# What follows from the options, and more than one file has to know: how the jobs of each pool run and as whom, root's word on
# that, and the settings as the daemon gets them.
{ config, lib }:
let
  cfg = config.services.ci-runner;

  # Pools whose jobs are units: the sandboxes that may be used there, the default first, and whose they are.
  policyOf =
    name:
    let
      pool = cfg.settings.pools.${name} or { };
      first = pool.profile or "build";
    in
    lib.optionalAttrs ((pool.executor or cfg.executor) == "systemd") {
      ${name} = {
        profiles = lib.unique (
          lib.optional (pool ? profile) first
          ++ pool.profiles or [
            first
            "strict"
          ]
        );
      }
      // lib.getAttrs (lib.filter (key: pool ? ${key}) [
        "user"
        "paths"
        "submitters"
      ]) pool
      // lib.optionalAttrs (cfg.pools.${name}.degrade or false) { degrade = true; }
      // lib.optionalAttrs (maximaOf pool != { }) { limits = maximaOf pool; };
    };

  # What a pool's units may use at most, whatever the daemon asks for.
  maximaOf =
    pool:
    lib.filterAttrs (_: value: value != null) {
      memory = pool.memory_max or null;
      swap = pool.swap or null;
      cpu = pool.cpu_max or null;
      pids = pool.pids_max or null;
      cpu_weight = pool.cpu_weight or null;
      io_weight = pool.io_weight or null;
    };

  unitPools = lib.mergeAttrsList (map policyOf poolNames);

  # Pools that run as a person.
  personal = lib.filterAttrs (_: pool: pool ? user || pool ? paths) cfg.settings.pools;

  # Root opens the logs of units and of slots' users there.
  logDir = "/var/log/ci-runner/jobs";

  # Pools whose jobs are processes: children of the daemon, or of a service of root that gives each slot a user.
  poolNames = lib.unique ([ "default" ] ++ lib.attrNames cfg.settings.pools);
  nativePools = lib.filter (name: !unitPools ? ${name}) poolNames;
  jobsService = cfg.slotUsers && nativePools != [ ];
  nativeInside = nativePools != [ ] && !jobsService;
  rootLogs = unitPools != { } || jobsService;
  slotsOf = name: if name == "default" then cfg.maxParallelJobs else cfg.settings.pools.${name}.slots;
  slotUser =
    name: number:
    "ci-runner-job-${lib.optionalString (name != "default") "${name}-"}${toString number}";
  slotUsersOf = name: lib.genList (slotUser name) (slotsOf name);
  slotUsers = lib.optionals jobsService (lib.concatMap slotUsersOf nativePools);

  # What the spawners of root's obey.
  jobsPolicy = builtins.toJSON {
    kind = "native";
    group = "ci-runner";
    users = [ "ci-runner" ];
    log_dir = logDir;
    tmp_dir = "/var/lib/ci-runner-jobs/tmp";
    program = "${cfg.package}/bin/ci-runner-spawner";
    pools = lib.genAttrs nativePools (name: {
      users = slotUsersOf name;
    });
  };
  policy = builtins.toJSON {
    kind = "systemd";
    group = "ci-runner";
    users = [ "ci-runner" ];
    log_dir = logDir;
    program = "${cfg.package}/bin/ci-runner-spawner";
    pools = unitPools;
  };

  hasExporter = cfg.enableMetrics || cfg.metrics.textfileDirectory != null;

  # The configuration file: what the options say, and what only the module can know.
  settings = lib.recursiveUpdate cfg.settings (
    # Root opens the logs of units: their directory is root's.
    lib.optionalAttrs rootLogs { log_dir = logDir; }
    // lib.optionalAttrs jobsService { jobs_socket = "/run/ci-runner-jobs/socket"; }
    // {
      pools = lib.mapAttrs (_: pool: { inherit (pool) profiles; }) unitPools;
    }
  );
in
{
  inherit
    hasExporter
    jobsPolicy
    jobsService
    logDir
    nativeInside
    personal
    policy
    rootLogs
    settings
    slotUsers
    unitPools
    ;
}
