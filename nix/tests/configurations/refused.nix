# Configurations that have to be refused, each with words that the error has to contain.
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
  watch-too-often = refused "services.ci-runner.watch.every" { watch.every = 0; };
  watch-in-words = refused "services.ci-runner.watch.window" { watch.window = "2h"; };
  watch-unknown = refused "services.ci-runner.watch.stuckFacter" { watch.stuckFacter = 3; };
  watch-factor-below-one = refused "services.ci-runner.watch.stuckFactor" {
    watch.stuckFactor = 0.5;
  };
  watch-said-twice = refused "services.ci-runner.settings.watch.every" {
    watch.every = 30;
    settings.watch.every = "10s";
  };

  notifier-without-kind = refused "services.ci-runner.notifiers.ops.kind" {
    notifiers.ops.url = "https://hooks.example.org/ci";
  };
  notifier-without-url =
    refused "services.ci-runner.notifiers.ops.url is needed where kind = \"http\". Set it."
      {
        notifiers.ops.kind = "http";
      };
  notifier-with-keys-of-another =
    refused "services.ci-runner.notifiers.ops.to means nothing where kind = \"command\". Remove it"
      {
        notifiers.ops = {
          kind = "command";
          command = [ "/bin/page" ];
          to = [ "ops@example.org" ];
        };
      };
  notifier-with-relative-program =
    refused "services.ci-runner.notifiers.ops.command begins with a program by its absolute path"
      {
        notifiers.ops = {
          kind = "command";
          command = [ "page" ];
        };
      };
  notifier-by-the-systems-sendmail = refused "services.ci-runner.notifiers.me.sendmail is needed" {
    notifiers.me = {
      kind = "email";
      to = [ "me@example.org" ];
    };
  };
  notifier-of-unknown-watch = refused "services.ci-runner.notifiers.ops.watches" {
    notifiers.ops = {
      kind = "command";
      command = [ "/bin/page" ];
      watches = [ "stuck" ];
    };
  };
  notifier-with-user-in-url = refused "services.ci-runner.notifiers.ops.url" {
    notifiers.ops = {
      kind = "http";
      url = "https://me:secret@hooks.example.org/ci";
    };
  };
  notifier-with-odd-name = refused "services.ci-runner.notifiers: Ops: there may be 32" {
    notifiers.Ops = {
      kind = "command";
      command = [ "/bin/page" ];
    };
  };
  secret-in-the-store = refused "services.ci-runner.notifiers.ops.secretFile" {
    notifiers.ops = {
      kind = "http";
      url = "https://hooks.example.org/ci";
      secretFile = "${builtins.storeDir}/00000000000000000000000000000000-secret";
    };
  };
  # It would be copied to the store.
  secret-as-nix-path = refused "services.ci-runner.notifiers.ops.secretFile" {
    notifiers.ops = {
      kind = "http";
      url = "https://hooks.example.org/ci";
      secretFile = ./refused.nix;
    };
  };
  secret-twice =
    refused "services.ci-runner.notifiers.ops.secretFile stands beside secretCredential"
      {
        credentials.ops-hook = "/run/secrets/ops-hook";
        notifiers.ops = {
          kind = "http";
          url = "https://hooks.example.org/ci";
          secretFile = "/run/secrets/ops-hook";
          secretCredential = "ops-hook";
        };
      };
  unknown-credential = refused "services.ci-runner.credentials.ops-hook = \"/run/secrets/ops-hook\"" {
    credentials.ops = "/run/secrets/ops-hook";
    notifiers.ops = {
      kind = "http";
      url = "https://hooks.example.org/ci";
      secretCredential = "ops-hook";
    };
  };
  credential-in-the-store = refused "services.ci-runner.credentials.ops-hook" {
    credentials.ops-hook = "${builtins.storeDir}/00000000000000000000000000000000-secret";
  };
  credential-with-odd-name = refused "services.ci-runner.credentials: a:b: names of credentials" {
    credentials."a:b" = "/run/secrets/ops-hook";
  };
  more-slots-than-users = refused "services.ci-runner.slotUsers: 406 slots of native jobs" {
    executor = "native";
    maxParallelJobs = 400;
    pools.small.slots = 6;
  };
  slot-users-with-long-names = refused "or set services.ci-runner.slotUsers = false" {
    pools.a-name-that-is-long = {
      slots = 1;
      executor = "native";
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
}
