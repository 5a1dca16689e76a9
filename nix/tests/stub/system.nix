# A stand-in for a NixOS system: the options of other modules that ours sets or reads, as loose as
# they can be. It shows that our module evaluates, not that NixOS takes what it says.
{ lib, pkgs }:
configuration:
let
  inherit (lib) mkOption types;

  loose = mkOption {
    type = types.lazyAttrsOf types.anything;
    default = { };
  };

  list = mkOption {
    type = types.listOf types.anything;
    default = [ ];
  };

  service.options = {
    description = mkOption { type = types.str; };
    wantedBy = list;
    after = list;
    reloadTriggers = list;
    restartTriggers = list;
    stopIfChanged = mkOption {
      type = types.bool;
      default = true;
    };
    startLimitIntervalSec = mkOption { type = types.int; };
    # Lists are joined, as NixOS does.
    serviceConfig = mkOption {
      type = types.attrsOf (types.either (types.listOf types.str) types.anything);
    };
  };

  others =
    { config, ... }:
    {
      options = {
        assertions = list;
        boot = loose;
        environment = {
          etc = loose;
          systemPackages = list;
        };
        fileSystems = loose;
        networking.firewall.allowedTCPPorts = list;
        nixpkgs = loose;
        services.prometheus.exporters.node = {
          enable = lib.mkEnableOption "node";
          port = mkOption {
            type = types.port;
            default = 9100;
          };
        };
        system.stateVersion = mkOption {
          type = types.str;
          default = "26.05";
        };
        system.build = loose;
        systemd.services = mkOption {
          type = types.attrsOf (types.submodule service);
          default = { };
        };
        users = loose;
        virtualisation = loose;
      };

      config = {
        _module.args.pkgs = pkgs;
        system.build.toplevel =
          let
            failed = lib.filter (assertion: !assertion.assertion) config.assertions;
            parts = [
              (config.systemd.services.ci-runner or { })
              config.environment
              config.networking
              config.users
              config.virtualisation
            ];
          in
          if failed != [ ] then
            throw "Failed assertions:\n${lib.concatMapStrings (assertion: assertion.message) failed}"
          else
            builtins.deepSeq (lib.generators.toPretty { } parts) pkgs.coreutils;
      };
    };
in
lib.evalModules {
  modules = [
    others
    configuration
  ];
}
