# The configuration file: what the options say as its keys, and where it lies.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.ci-runner;
  inherit (import ./lib/derived.nix { inherit config lib; }) settings;
  toml = pkgs.formats.toml { };

  # An IPv6 address stands in brackets before a port.
  endpoint =
    address: port: "${if lib.hasInfix ":" address then "[${address}]" else address}:${toString port}";

  # Options as keys: `queueAgeMax` is `queue_age_max`. What is not said is left out.
  key = lib.replaceStrings lib.upperChars (map (letter: "_${letter}") lib.lowerChars);
  keys =
    options:
    lib.mapAttrs' (option: lib.nameValuePair (key option)) (
      lib.filterAttrs (_: value: value != null && value != [ ]) options
    );
  notifierKeys =
    notifier:
    keys (
      notifier
      # A file beside the configuration is copied: nothing in it is secret.
      // lib.optionalAttrs (notifier.caFile != null) { caFile = "${notifier.caFile}"; }
    );

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
      unchecked = toml.generate "ci-runner.toml" settings;
    in
    if pkgs.stdenv.buildPlatform.canExecute pkgs.stdenv.hostPlatform then
      # Time zones of schedules are looked up there.
      pkgs.runCommand "ci-runner-checked.toml" { TZDIR = "${pkgs.tzdata}/share/zoneinfo"; } ''
        ${lib.getExe cfg.package} config check ${unchecked}
        cp ${unchecked} $out
      ''
    else
      unchecked;
in
{
  config = lib.mkIf cfg.enable {
    services.ci-runner.settings = {
      max_parallel_jobs = cfg.maxParallelJobs;
      executor = lib.mkIf (cfg.executor != "native") cfg.executor;
      pools = lib.mapAttrs (_: lib.filterAttrs (key: value: value != null && key != "degrade")) cfg.pools;
      schedules = lib.mapAttrs (
        _: lib.filterAttrs (_: value: value != null && value != { })
      ) cfg.schedules;
      watch = keys cfg.watch;
      notifiers = lib.mapAttrs (_: notifierKeys) cfg.notifiers;
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
    environment.etc."ci-runner/config.toml".source = configFile;
  };
}
