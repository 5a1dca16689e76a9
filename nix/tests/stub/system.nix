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

  optional =
    type:
    mkOption {
      type = types.nullOr type;
      default = null;
    };

  # What units of every kind have.
  unit = {
    description = mkOption {
      type = types.str;
      default = "";
    };
    documentation = list;
    wantedBy = list;
    requiredBy = list;
    wants = list;
    requires = list;
    after = list;
    before = list;
    bindsTo = list;
    partOf = list;
    conflicts = list;
    unitConfig = section;
    reloadTriggers = list;
    restartTriggers = list;
    startLimitIntervalSec = optional types.int;
    startLimitBurst = optional types.int;
  };

  # Lists are joined, as NixOS does.
  section = mkOption {
    type = types.attrsOf (types.either (types.listOf types.str) types.anything);
    default = { };
  };

  service.options = unit // {
    stopIfChanged = yes;
    restartIfChanged = yes;
    environment = loose;
    serviceConfig = section;
  };
  socket.options = unit // {
    listenStreams = list;
    socketConfig = section;
  };
  slice.options = unit // {
    sliceConfig = section;
  };

  yes = mkOption {
    type = types.bool;
    default = true;
  };

  units =
    kind:
    mkOption {
      type = types.attrsOf (types.submodule kind);
      default = { };
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
        services.grafana.provision = loose;
        services.prometheus.ruleFiles = list;
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
        system.switch.enable = yes;
        # Other systems that this one can switch to: its own configuration with more.
        specialisation = mkOption {
          type = types.attrsOf (
            types.submodule {
              options.configuration = mkOption {
                type = types.deferredModule;
                default = { };
              };
            }
          );
          default = { };
        };
        systemd = {
          services = units service;
          sockets = units socket;
          slices = units slice;
          tmpfiles.rules = list;
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
              config.systemd
              config.environment
              config.services.grafana
              config.services.prometheus.ruleFiles
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
