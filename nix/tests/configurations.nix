# Example configurations, evaluated as whole systems by `nix flake check` and against stubs of the
# other modules by scripts/check-nix. A refused one names words that its error has to contain.
let
  ciRunner = settings: {
    services.ci-runner = {
      enable = true;
    }
    // settings;
  };
  refused = words: settings: {
    inherit words;
    configuration = ciRunner settings;
  };
in
{
  accepted = {
    off = { };
    defaults = ciRunner { };

    everything = ciRunner {
      maxParallelJobs = 16;
      retryAttempts = 0;
      retryDelay = 0;
      defaultTimeout = 3600;
      maxTimeout = 3600;
      logLevel = "debug";
      metrics.port = 9101;
      metrics.listenAddress = "::";
      openFirewall = true;
      settings.http = "off";
      settings.pools.heavy = {
        slots = 1;
        labels = [
          "gpu"
          "arch=arm64"
        ];
      };
    };

    without-metrics = {
      imports = [ (ciRunner { enableMetrics = false; }) ];
      services.prometheus.exporters.node.enable = true;
    };

    beside-node-exporter = {
      imports = [ (ciRunner { metrics.port = 9101; }) ];
      services.prometheus.exporters.node.enable = true;
    };

    into-a-textfile-for-the-node-exporter = {
      imports = [
        (ciRunner {
          enableMetrics = false;
          metrics.textfileDirectory = "/var/lib/node-exporter-textfiles";
        })
      ];
      services.prometheus.exporters.node.enable = true;
    };

    without-the-host = ciRunner {
      metrics.host = false;
      settings.metrics.exclude.netdev_devices = "^lo$";
    };

    with-rules-and-dashboards = ciRunner {
      monitoring.prometheusRules = true;
      monitoring.grafanaDashboards = true;
    };

    default-pool-with-labels = ciRunner { settings.pools.default.labels = [ "tmpfs" ]; };

    http-with-more-keys = ciRunner {
      settings.http = {
        listen = "127.0.0.1:8081";
        public_status = true;
      };
    };

    tree-of-a-person = {
      imports = [
        (ciRunner {
          executor = "systemd";
          pools.ada = {
            slots = 2;
            user = "ada";
            paths = [ "/home/ada/src" ];
          };
        })
      ];
      users.users.ada.isNormalUser = true;
    };

    schedules = ciRunner {
      schedules.nightly = {
        calendar = "30 2 * * *";
        timezone = "Europe/Berlin";
        command = [
          "make"
          "nightly"
        ];
        overlap = "queue";
        job.timeout = "2h";
      };
      schedules.tidy = {
        calendar = "daily";
        shell = "rm -rf /var/cache/thing/*";
      };
    };

    writable-tree = {
      imports = [ (ciRunner { }) ];
      systemd.services.ci-runner.serviceConfig.ReadWritePaths = [ "/srv/tree" ];
    };
  };

  refused = {
    node-exporter-port = {
      words = "services.ci-runner.metrics.port: 9100 is also the port of services.prometheus.exporters.node";
      configuration = {
        imports = [ (ciRunner { }) ];
        services.prometheus.exporters.node.enable = true;
      };
    };

    person-without-paths = refused "services.ci-runner.pools: ada have user or paths" {
      executor = "systemd";
      pools.ada = {
        slots = 1;
        user = "ada";
      };
    };
    person-with-native-jobs = refused "needs both, and executor = \"systemd\"" {
      executor = "native";
      pools.ada = {
        slots = 1;
        user = "ada";
        paths = [ "/home/ada/src" ];
      };
    };
    unknown-person = refused "(ada) is not among users.users" {
      executor = "systemd";
      pools.ada = {
        slots = 1;
        user = "ada";
        paths = [ "/home/ada/src" ];
      };
    };
    schedule-without-command = refused "services.ci-runner.schedules: nightly: a schedule needs" {
      schedules.nightly.calendar = "daily";
    };
    schedule-with-both = refused "services.ci-runner.schedules: nightly: a schedule needs" {
      schedules.nightly = {
        calendar = "daily";
        command = [ "true" ];
        shell = "true";
      };
    };
    schedule-without-calendar = refused "services.ci-runner.schedules.nightly.calendar" {
      schedules.nightly.shell = "true";
    };
    schedule-with-odd-policy = refused "services.ci-runner.schedules.nightly.overlap" {
      schedules.nightly = {
        calendar = "daily";
        shell = "true";
        overlap = "wait";
      };
    };
    unknown-profile = refused "services.ci-runner.pools.default.profiles" {
      pools.default.profiles = [ "lax" ];
    };
    no-slots = refused "services.ci-runner.maxParallelJobs" { maxParallelJobs = 0; };
    too-many-slots = refused "services.ci-runner.maxParallelJobs" { maxParallelJobs = 1025; };
    negative-retries = refused "services.ci-runner.retryAttempts" { retryAttempts = -1; };
    delay-as-text = refused "services.ci-runner.retryDelay" { retryDelay = "soon"; };
    timeout-zero = refused "services.ci-runner.defaultTimeout" { defaultTimeout = 0; };
    timeout-above-limit = refused "services.ci-runner.defaultTimeout (21600) is longer" {
      maxTimeout = 60;
    };
    unknown-level = refused "services.ci-runner.logLevel" { logLevel = "verbose"; };
    textfile-directory-as-number = refused "services.ci-runner.metrics.textfileDirectory" {
      metrics.textfileDirectory = 7;
    };
    port-too-large = refused "services.ci-runner.metrics.port" { metrics.port = 65536; };
    firewall-for-loopback = refused "services.ci-runner.openFirewall" { openFirewall = true; };
    firewall-for-nothing = refused "services.ci-runner.openFirewall" {
      openFirewall = true;
      enableMetrics = false;
      metrics.listenAddress = "::";
    };
    pool-without-slots = refused "services.ci-runner.settings.pools.heavy.slots" {
      settings.pools.heavy = { };
    };
    label-with-space = refused "services.ci-runner.settings.pools.heavy.labels" {
      settings.pools.heavy = {
        slots = 1;
        labels = [ "two words" ];
      };
    };
    said-twice = refused "services.ci-runner.settings.max_parallel_jobs" {
      settings.max_parallel_jobs = 8;
    };
    slots-said-twice = refused "services.ci-runner.settings.pools.default.slots" {
      settings.pools.default.slots = 8;
    };
    state-elsewhere = refused "services.ci-runner.settings: state_dir" {
      settings.state_dir = "/srv/ci";
    };
    unknown-option = refused "services.ci-runner.maxParalelJobs" { maxParalelJobs = 8; };
  };
}
