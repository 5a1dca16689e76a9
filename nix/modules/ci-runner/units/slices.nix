# What the service keeps for itself, and what its jobs may take.
{ config, lib, ... }:
let
  inherit (lib) mkDefault;
  cfg = config.services.ci-runner;
  inherit (import ../lib/derived.nix { inherit config lib; }) unitPools;
in
{
  config = lib.mkIf cfg.enable {
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
  };
}
