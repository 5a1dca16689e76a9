# The NixOS service. Jobs of the native executor are children of `ci-runner.service` and run as its user or, with `slotUsers`,
# children of `ci-runner-jobs.service` under a user per slot; jobs of the systemd executor are units that
# `ci-runner-spawner.service` has started. Whatever is taken from a service is taken from the jobs inside of it. So a line of
# hardening stands there only if a compiler, a JIT, a debugger and an unprivileged container can live with it, and the ones that
# are left out say why. A daemon without jobs inside is closed.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkDefault mkOption types;

  cfg = config.services.ci-runner;
  toml = pkgs.formats.toml { };

  # An IPv6 address stands in brackets before a port.
  endpoint =
    address: port: "${if lib.hasInfix ":" address then "[${address}]" else address}:${toString port}";

  isLoopback = address: lib.hasPrefix "127." address || address == "::1";

  executors = types.enum [
    "native"
    "systemd"
  ];
  profile = types.enum [
    "build"
    "strict"
    "open"
  ];
  label = types.strMatching "[^=[:space:]]+(=[^[:space:]]*)?";

  # The daemon's own limits.
  slots = types.ints.between 1 1024;
  retries = types.ints.between 0 1000;
  secondsOfADay = types.ints.between 0 86400;

  # Keys that follow the unit's own directories.
  unitKeys = [
    "state_dir"
    "runtime_dir"
    "socket"
  ];

  # What a job finds without asking. It never inherits the PATH of the service.
  jobPackages = [
    pkgs.bash
    pkgs.coreutils
    pkgs.diffutils
    pkgs.findutils
    pkgs.gawk
    pkgs.git
    pkgs.gnugrep
    pkgs.gnused
    pkgs.gnutar
    pkgs.gzip
    pkgs.xz
  ]
  ++ cfg.extraPackages;

  # A build with a setting that the daemon would refuse does not get as far as a switch.
  configFile =
    let
      # Root opens the logs of units: their directory is root's.
      units =
        lib.optionalAttrs rootLogs { log_dir = logDir; }
        // lib.optionalAttrs jobsService { jobs_socket = "/run/ci-runner-jobs/socket"; }
        // {
          pools = lib.mapAttrs (_: pool: { inherit (pool) profiles; }) unitPools;
        };
      unchecked = toml.generate "ci-runner.toml" (lib.recursiveUpdate cfg.settings units);
    in
    if pkgs.stdenv.buildPlatform.canExecute pkgs.stdenv.hostPlatform then
      # Time zones of schedules are looked up there.
      pkgs.runCommand "ci-runner-checked.toml" { TZDIR = "${pkgs.tzdata}/share/zoneinfo"; } ''
        ${lib.getExe cfg.package} config check ${unchecked}
        cp ${unchecked} $out
      ''
    else
      unchecked;

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

  # Other services of this machine that may have taken the port of the metrics.
  portHolders = lib.filter (holder: holder.enable) [
    {
      name = "services.prometheus.exporters.node";
      inherit (config.services.prometheus.exporters.node) enable port;
    }
  ];
in
{
  options.services.ci-runner = {
    enable = lib.mkEnableOption "ci-runner, a job runner whose jobs outlive its own restarts";

    package = lib.mkPackageOption { ci-runner = pkgs.callPackage ../package.nix { }; } "ci-runner" {
      pkgsText = "ci-runner.packages.\${system}";
    };

    maxParallelJobs = mkOption {
      type = slots;
      default = 4;
      description = "How many jobs of the default pool run at the same time.";
    };

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

    enableMetrics = mkOption {
      type = types.bool;
      default = true;
      description = "Whether to serve `/metrics` for Prometheus.";
    };

    metrics = {
      port = mkOption {
        type = types.port;
        default = 9100;
        description = "TCP port of `/metrics`.";
      };

      listenAddress = mkOption {
        type = types.str;
        default = "127.0.0.1";
        example = "::";
        description = "Address on which `/metrics` is served.";
      };

      host = mkOption {
        type = types.bool;
        default = true;
        description = "Whether `/metrics` shows the host too, under the names of node_exporter (`node_*`).";
      };

      textfileDirectory = mkOption {
        type = types.nullOr types.path;
        default = null;
        example = "/var/lib/node-exporter-textfiles";
        description = ''
          Directory in which `ci_runner.prom` is written, for the textfile collector of a node exporter that runs
          already. The user `ci-runner-exporter` has to be able to write there.
        '';
      };
    };

    monitoring = {
      prometheusRules = mkOption {
        type = types.bool;
        default = false;
        description = ''
          Whether the Prometheus of this machine (`services.prometheus`) gets the recording and alert rules that the
          package ships in `share/ci-runner/prometheus`. It has to scrape the exporter under a job name with `ci-runner` in it.
        '';
      };

      grafanaDashboards = mkOption {
        type = types.bool;
        default = false;
        description = ''
          Whether the Grafana of this machine (`services.grafana`) gets the dashboard that the package ships in
          `share/ci-runner/grafana`.
        '';
      };
    };

    openFirewall = mkOption {
      type = types.bool;
      default = false;
      description = "Whether to open the port of the metrics in the firewall. No other port is opened.";
    };

    extraPackages = mkOption {
      type = types.listOf types.package;
      default = [ ];
      example = lib.literalExpression "[ pkgs.gcc pkgs.gnumake pkgs.nodejs ]";
      description = ''
        Packages on the PATH of jobs, besides a shell, the core utilities, git, tar, gzip and xz.
      '';
    };

    executor = mkOption {
      type = executors;
      default = "systemd";
      description = ''
        How jobs of the pool `default` run: each as a transient unit with a user, a cgroup and a sandbox of
        its own, or (`native`) as processes of the user ci-runner. Other pools say it by {option}`executor` in
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
              type = types.nullOr executors;
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

    slotUsers = mkOption {
      type = types.bool;
      default = false;
      description = ''
        Whether native jobs run under a system user per slot, `ci-runner-job-…`, started by
        `ci-runner-jobs.service` (root) in place of the daemon. Then no job can reach another one's
        processes or the daemon's files, and the daemon's own service is hardened in full. Change it
        while no native job runs (`ci-runner drain`): the daemon does not find those that the other
        way has started.
      '';
    };

    settings = mkOption {
      default = { };
      description = ''
        Everything else, as keys of the configuration file. What has an option of its own above is
        set there and nowhere else. The file is checked while the system is built.
      '';
      type = types.submodule {
        freeformType = toml.type;
        options = {
          http = mkOption {
            type = types.either types.str (types.attrsOf toml.type);
            default = "127.0.0.1:8080";
            example = "off";
            description = "Address and port of the health routes on TCP, or `off`, or a table with more keys.";
          };

          pools = mkOption {
            default = { };
            example = {
              default.labels = [ "tmpfs" ];
              heavy = {
                slots = 1;
                labels = [ "memory=64G" ];
              };
            };
            description = ''
              Named capacity for jobs with certain labels. The pool `default` is always there and has
              {option}`services.ci-runner.maxParallelJobs` slots.
            '';
            type = types.attrsOf (
              types.submodule (
                { name, ... }:
                {
                  freeformType = toml.type;
                  config = lib.mkIf (name == "default") { slots = cfg.maxParallelJobs; };
                  options = {
                    slots = mkOption {
                      type = slots;
                      description = "How many jobs of this pool run at the same time.";
                    };

                    labels = mkOption {
                      type = types.listOf label;
                      default = [ ];
                      example = [
                        "gpu"
                        "arch=arm64"
                      ];
                      description = "What this pool offers, as `key` or `key=value`.";
                    };
                  };
                }
              )
            );
          };
        };
      };
    };
  };

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
          } are too long for names of users; give those pools names of at most 12 characters.
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

    services.ci-runner.settings = {
      max_parallel_jobs = cfg.maxParallelJobs;
      executor = lib.mkIf (cfg.executor != "native") cfg.executor;
      pools = lib.mapAttrs (_: lib.filterAttrs (key: value: value != null && key != "degrade")) cfg.pools;
      schedules = lib.mapAttrs (
        _: lib.filterAttrs (_: value: value != null && value != { })
      ) cfg.schedules;
      retry_attempts = cfg.retryAttempts;
      retry_delay = cfg.retryDelay;
      default_timeout = cfg.defaultTimeout;
      max_timeout = lib.mkIf (cfg.maxTimeout != null) cfg.maxTimeout;
      log_level = cfg.logLevel;
      # The exporter's; the daemon itself serves no metrics here.
      metrics = {
        listen = if cfg.enableMetrics then endpoint cfg.metrics.listenAddress cfg.metrics.port else "off";
        inherit (cfg.metrics) host;
        textfile_directory = lib.mkIf (cfg.metrics.textfileDirectory != null) (
          toString cfg.metrics.textfileDirectory
        );
      };
      job_path = lib.makeBinPath jobPackages;
    };

    # A fixed path, so that a change of the settings leaves the unit as it is: it is reloaded then,
    # not restarted.
    environment.etc = {
      "ci-runner/config.toml".source = configFile;
    }
    # Root's word on what the daemon may have started: by pool, the sandboxes that may be used there.
    // lib.optionalAttrs (unitPools != { }) { "ci-runner/policy.json".text = policy; }
    // lib.optionalAttrs jobsService { "ci-runner/jobs.json".text = jobsPolicy; };

    # The client, `add_job`, man pages and completions for everybody.
    environment.systemPackages = [ cfg.package ];

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

    networking.firewall.allowedTCPPorts = lib.mkIf cfg.openFirewall [ cfg.metrics.port ];

    services.prometheus.ruleFiles = lib.mkIf cfg.monitoring.prometheusRules [
      "${cfg.package}/share/ci-runner/prometheus/ci-runner.rules.yml"
    ];
    services.grafana.provision = lib.mkIf cfg.monitoring.grafanaDashboards {
      enable = true;
      dashboards.settings.providers = [
        {
          name = "ci-runner";
          options.path = "${cfg.package}/share/ci-runner/grafana";
        }
      ];
    };

    # PID 1 holds the socket: who submits while the daemon restarts waits, and is not refused.
    systemd.sockets.ci-runner = {
      description = "Socket of the job runner";
      wantedBy = [ "sockets.target" ];
      listenStreams = [ "/run/ci-runner/api.sock" ];
      socketConfig = {
        SocketUser = "ci-runner";
        SocketGroup = "ci-runner";
        SocketMode = "0660";
        DirectoryMode = "0750"; # as the service's RuntimeDirectoryMode, which gives it its owner
        TriggerLimitIntervalSec = 0; # as with the service: it never gives up
      };
    };

    # The service apart from its jobs, each under the root: what a job takes, it takes from other jobs
    # first. (A dash in the name would put it below another slice, whose weight would count.)
    # Weights and the minimum count when something is short; at other times they cost nothing.
    systemd.slices.ci_runner = {
      description = "ci-runner, without its jobs";
      unitConfig.X-StopOnRemoval = false; # a switch that removes it would stop all that is inside
      sliceConfig = {
        CPUWeight = mkDefault 1000; # of 10,000; 100 is what everybody has
        IOWeight = mkDefault 1000;
        MemoryMin = mkDefault "128M"; # never reclaimed: daemon, spawner and exporter at work need 60
      };
    };
    systemd.slices.ci_jobs = lib.mkIf (unitPools != { }) {
      description = "Jobs of ci-runner";
      unitConfig.X-StopOnRemoval = false;
      sliceConfig = {
        CPUWeight = mkDefault 50; # the machine's other services and people go first
        IOWeight = mkDefault 50;
      };
    };

    # Daemon and root both write here, the daemon removes what is old.
    systemd.tmpfiles.rules = lib.mkIf rootLogs [
      "d /var/log/ci-runner 0750 root ci-runner"
      "d ${logDir} 2770 root ci-runner"
    ];

    # Starts the units of jobs. No switch restarts it; a reload executes the new package's program in
    # the same process. Root without a capability: its doors are D-Bus and cgroup.kill.
    systemd.services.ci-runner-spawner = lib.mkIf (unitPools != { }) {
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

    # Host and daemon on one port, also while the daemon is down. It sees the host as it is: that is why
    # the daemon, which is shut in, does not serve this itself.
    systemd.services.ci-runner-exporter = lib.mkIf hasExporter {
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

    # Starts native jobs, each under its slot's user. What it may not do its jobs cannot do either, so
    # it is far more open than the other one.
    systemd.services.ci-runner-jobs = lib.mkIf jobsService {
      description = "Starts the native jobs of ci-runner";
      wantedBy = [ "multi-user.target" ];
      reloadTriggers = [ jobsPolicy ];
      restartIfChanged = false;
      unitConfig.X-StopOnRemoval = false;
      startLimitIntervalSec = 0;

      serviceConfig = {
        Type = "notify";
        ExecStart = "/run/current-system/sw/bin/ci-runner-spawner --policy /etc/ci-runner/jobs.json";
        ExecReload = "/bin/sh -c 'kill -HUP $MAINPID'";
        Group = "ci-runner";
        Restart = "always";
        RestartSec = mkDefault "200ms";
        KillMode = "process"; # shims and jobs stay, the next spawner finds them
        RuntimeDirectory = "ci-runner-jobs";
        RuntimeDirectoryMode = "0711";
        RuntimeDirectoryPreserve = "yes";
        StateDirectory = "ci-runner-jobs"; # slots' directories: each is its user's, to be passed through
        StateDirectoryMode = "0711";

        # One cgroup per attempt below its own.
        Delegate = true;
        DelegateSubgroup = "main";
        OOMPolicy = "continue";

        # SETUID, SETGID: a job becomes its slot's user. CHOWN: so does its directory. DAC_OVERRIDE, FOWNER: which is emptied
        # after the job, whatever modes that left. KILL: ends jobs. SYS_PTRACE: sees them in /proc when their shim is dead.
        # Jobs have none of them: who is not root and may not become root has no capability.
        CapabilityBoundingSet = "CAP_SETUID CAP_SETGID CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER CAP_KILL CAP_SYS_PTRACE";
        NoNewPrivileges = mkDefault true;
        UMask = "0007"; # logs are for the group; a job's own mask is 0022

        ProtectSystem = mkDefault "strict";
        ProtectHome = mkDefault true; # for trees of people there are pools with user and paths
        ReadWritePaths = [
          logDir
          "-/tmp"
          "-/var/tmp"
        ];
        ProtectProc = mkDefault "invisible";
        ProtectKernelModules = mkDefault true;
        ProtectControlGroups = false; # it makes and removes those of the attempts; they are root's
        RestrictRealtime = mkDefault true;
        KeyringMode = "private";
        SystemCallFilter = mkDefault "~@module @raw-io @swap @obsolete";
        SystemCallErrorNumber = mkDefault "EPERM";
        RestrictAddressFamilies = mkDefault [
          "AF_UNIX"
          "AF_INET"
          "AF_INET6"
          "AF_NETLINK"
        ];
        InaccessiblePaths = [ "-/var/lib/ci-runner" ];

        # Left as they are for the jobs' sake: what the end of this file says of the daemon with native jobs inside.
        # PrivateTmp: it goes with the service, and jobs go on; what a user left there is removed after each job.
        # OOMScoreAdjust: jobs would inherit it.
        # PrivateUsers: slots' users are the host's.
      };
    };

    systemd.services.ci-runner = {
      description = "Job runner";
      wantedBy = [ "multi-user.target" ];
      requires = [ "ci-runner.socket" ];
      wants =
        lib.optional (unitPools != { }) "ci-runner-spawner.service"
        ++ lib.optional jobsService "ci-runner-jobs.service";
      after = [
        "network.target"
        "ci-runner.socket"
      ]
      ++ lib.optional (unitPools != { }) "ci-runner-spawner.service"
      ++ lib.optional jobsService "ci-runner-jobs.service";

      # A switch reloads for new settings and restarts, in one step, for a new package or unit and
      # for the two settings that a reload cannot change. Neither touches a job.
      reloadTriggers = [ configFile ];
      restartTriggers = [
        (builtins.toJSON { inherit (cfg.settings) http; })
      ];
      stopIfChanged = false;

      # However often it ends, it comes back.
      startLimitIntervalSec = 0;

      serviceConfig = {
        Type = "notify-reload";
        ExecStart = "${lib.getExe cfg.package} daemon --config /etc/ci-runner/config.toml --metrics off";
        User = "ci-runner";
        Group = "ci-runner";
        UMask = mkDefault "0077";
        Slice = "ci_runner.slice";
        StateDirectory = "ci-runner";
        StateDirectoryMode = mkDefault "0700";

        # Attempts live here, and jobs outlive the daemon: it may not be emptied when that stops.
        RuntimeDirectory = "ci-runner";
        RuntimeDirectoryMode = mkDefault "0750"; # the group comes to the socket
        RuntimeDirectoryPreserve = "yes";

        # Only the daemon itself is ever signalled. Its spawner and the jobs go on and are taken
        # over by the next daemon.
        KillMode = "process";
        Restart = "always";
        RestartSec = mkDefault "1s";
        WatchdogSec = mkDefault "30s";
        TimeoutStartSec = mkDefault "5min"; # a large store is read before the daemon is ready
        TimeoutStopSec = mkDefault "30s"; # jobs are not waited for; a commit is
        TimeoutAbortSec = mkDefault "5s"; # hung, so it will hardly answer SIGABRT either

        # No privilege, and none to be had: sudo and other setuid programs do nothing in a job.
        # A user namespace of a job's own still has its capabilities.
        NoNewPrivileges = mkDefault true;
        CapabilityBoundingSet = mkDefault "";
        AmbientCapabilities = mkDefault "";

        ProtectSystem = mkDefault "strict";
        ReadWritePaths = lib.optional rootLogs logDir;

        # What others say on their command lines is none of a job's business.
        ProtectProc = mkDefault "invisible";

        ProtectKernelModules = mkDefault true;
        RestrictRealtime = mkDefault true;
        RestrictAddressFamilies = mkDefault (
          [
            "AF_UNIX"
            "AF_INET"
            "AF_INET6"
          ]
          ++ lib.optional nativeInside "AF_NETLINK"
        );
        SystemCallErrorNumber = mkDefault "EPERM";
      }
      // lib.optionalAttrs (!nativeInside) {
        # No job is a child of it: it reads and writes its own files and talks.
        ProtectHome = mkDefault true;
        PrivateDevices = mkDefault true;
        DevicePolicy = mkDefault "closed";
        ProtectKernelTunables = mkDefault true;
        ProtectKernelLogs = mkDefault true;
        ProtectControlGroups = mkDefault true;
        ProtectClock = mkDefault true;
        ProtectHostname = mkDefault true;
        PrivateIPC = mkDefault true;
        RemoveIPC = mkDefault true;
        KeyringMode = mkDefault "private";
        RestrictNamespaces = mkDefault true;
        RestrictSUIDSGID = mkDefault true;
        LockPersonality = mkDefault true;
        MemoryDenyWriteExecute = mkDefault true;
        SystemCallArchitectures = mkDefault "native";
        SystemCallFilter = mkDefault [
          "@system-service"
          "~@privileged"
        ];

        # Left as they are, each for a reason:
        # PrivateTmp: `ci-runner backup /tmp/x` would end in a directory that nobody else sees; so it is refused.
        # PrivateUsers: the socket tells submitters apart by their real ids.
        # PrivateNetwork, IPAddressDeny: it serves, where the settings say.
        # ProcSubset: it watches the host's load and pressure.
      }
      // lib.optionalAttrs nativeInside {
        # One cgroup per attempt below the one in which daemon and spawner live.
        Delegate = true;
        DelegateSubgroup = "main";

        # The end of one job by the kernel is the end of that job.
        OOMPolicy = "continue";

        # Jobs write below the state directory and in the temporary ones. For a tree elsewhere add
        # its path to ReadWritePaths (the lists are joined).
        ProtectHome = mkDefault "read-only"; # not hidden: a job may start in a directory there
        ReadWritePaths = [
          "-/tmp"
          "-/var/tmp"
        ]
        ++ lib.optional rootLogs logDir;

        # Only what no unprivileged program can use anyway, in a user namespace of its own neither.
        # An errno, as without the filter, in place of the end of the process.
        SystemCallFilter = mkDefault "~@module @raw-io @swap @obsolete";

        # Left as they are, each for a reason:
        # PrivateTmp: systemd empties it when the daemon stops, and jobs go on. They have a TMPDIR
        #   of their own.
        # RemoveIPC: the same, with their shared memory.
        # OOMScoreAdjust: jobs would inherit the protection that is meant for the daemon.
        # PrivateUsers: the socket tells submitters apart by their real ids.
        # PrivateNetwork: jobs fetch; the daemon serves.
        # PrivateDevices, DevicePolicy, ProtectClock: jobs use /dev/kvm, /dev/fuse and GPUs.
        # ProtectControlGroups: each attempt has a cgroup of its own.
        # ProtectKernelTunables, ProtectKernelLogs: they cover parts of /proc, and then no job may
        #   mount a /proc in a user namespace (bubblewrap, rootless Podman). Both need root anyway.
        # ProtectHostname, RestrictNamespaces: the same programs.
        # RestrictSUIDSGID: setgid directories in archives and images.
        # MemoryDenyWriteExecute: node, Java and every other JIT.
        # LockPersonality: sanitizers and debuggers turn off address randomisation.
        # SystemCallArchitectures: 32-bit programs.
        # SystemCallFilter, the other groups: @debug is gdb, strace and perf, @mount and @privileged
        #   are containers, @reboot is how the init of one ends, @cpu-emulation is Wine, @resources
        #   is nice, @clock has the calls that read the clock's state too.
        # ProcSubset: make -j and everything else that counts processors and memory.
      };
    };
  };
}
