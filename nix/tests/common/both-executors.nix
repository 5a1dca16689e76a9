# The head of every machine on which jobs run in both ways: as transient units, and in the pool `native` as
# processes, by default each under its slot's user.
{ lib, ... }:
{
  services.ci-runner = {
    enable = true;
    executor = "systemd";
    settings.pools.native = {
      slots = lib.mkDefault 4;
      labels = [ "native" ];
      executor = "native";
    };
  };
}
