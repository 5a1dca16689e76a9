# The NixOS module `services.ci-runner`, one file for each purpose. A new option goes into the file of its subject under
# options/, and into the configuration file by config-file.nix; what several files have to know is in lib/derived.nix. lib/
# has functions, all else is modules. docs/reference/options.md and nix/rendered are made from all of it.
{
  imports = [
    # Options, by subject.
    ./ci-runner/options/service.nix
    ./ci-runner/options/jobs.nix
    ./ci-runner/options/pools.nix
    ./ci-runner/options/schedules.nix
    ./ci-runner/options/metrics.nix
    ./ci-runner/options/watch.nix
    ./ci-runner/options/notifiers.nix
    ./ci-runner/options/settings.nix

    # What they come to.
    ./ci-runner/assertions/options.nix
    ./ci-runner/assertions/notifiers.nix
    ./ci-runner/config-file.nix
    ./ci-runner/users.nix
    ./ci-runner/neighbours.nix

    # Units. Jobs of the native executor are children of the daemon and run as its user or, with `slotUsers`, children of
    # jobs.nix under a user per slot; jobs of the systemd executor are units that spawner.nix has started.
    ./ci-runner/units/daemon.nix
    ./ci-runner/units/socket.nix
    ./ci-runner/units/spawner.nix
    ./ci-runner/units/jobs.nix
    ./ci-runner/units/exporter.nix
    ./ci-runner/units/slices.nix
  ];
}
