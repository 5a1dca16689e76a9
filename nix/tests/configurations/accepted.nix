# Configurations that have to evaluate.
let
  ciRunner = settings: {
    services.ci-runner = {
      enable = true;
    }
    // settings;
  };
in
{
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

  native = ciRunner {
    executor = "native";
    pools.small.slots = 2;
  };

  native-under-one-user = ciRunner {
    executor = "native";
    slotUsers = false;
    maxParallelJobs = 1024;
  };

  many-units = ciRunner { maxParallelJobs = 1024; };

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

  watches = ciRunner {
    watch = {
      every = 30;
      stuckFactor = 0;
      stuckAfter = "unlimited";
      slowFactor = 2.5;
      failureRateMax = 12.5;
      queueAgeMax = 600;
      flappingChangesMax = 0;
    };
    # A key that has an option can still be said here instead.
    settings.watch.window = "2h";
  };

  notifiers = ciRunner {
    credentials.ops-hook = "/run/secrets/ops-hook";
    notifiers = {
      ops = {
        kind = "http";
        url = "https://hooks.example.org/ci";
        secretCredential = "ops-hook";
        watches = "all";
        outcomes = [
          "failed"
          "timed_out"
        ];
        names = [ "build*" ];
        timeout = 2.5;
      };
      # Read by the daemon itself, at each try.
      other = {
        kind = "http";
        url = "http://127.0.0.1:8000/";
        secretFile = "/var/lib/secrets/other";
        caFile = ./accepted.nix;
      };
      page = {
        kind = "command";
        command = [ "/run/current-system/sw/bin/page" ];
        watches = [ "stuck_job" ];
      };
      me = {
        kind = "email";
        to = [ "me@example.org" ];
        from = "ci@example.org";
        sendmail = [
          "/run/current-system/sw/bin/msmtp"
          "-t"
        ];
      };
    };
  };

  credential-by-hand = {
    imports = [
      (ciRunner {
        notifiers.ops = {
          kind = "http";
          url = "https://hooks.example.org/ci";
          secretCredential = "ops-hook";
        };
      })
    ];
    systemd.services.ci-runner.serviceConfig.LoadCredentialEncrypted = [
      "ops-hook:/etc/credstore.encrypted/ops-hook"
    ];
  };

  writable-tree = {
    imports = [ (ciRunner { }) ];
    systemd.services.ci-runner.serviceConfig.ReadWritePaths = [ "/srv/tree" ];
  };
}
