# A system of stub/system.nix as files for a machine that is not NixOS: { "etc/…" = text; … }.
# Units have `wantedBy` as their [Install] section, users are lines for systemd-sysusers.
{ lib }:
{
  config,
  package, # where the guest has it
  fixed ? package, # what is at the fixed path of a NixOS system
  settings, # text of ci-runner's configuration, which the module only has as a derivation
}:
let
  inherit (lib)
    concatStrings
    filterAttrs
    mapAttrs'
    mapAttrsToList
    nameValuePair
    optionalAttrs
    ;

  words = list: optionalAttrs (list != [ ]) { value = toString list; };

  ini = lib.generators.toINI { listsAsDuplicateKeys = true; };

  unitSection =
    unit:
    lib.mapAttrs (_: list: list.value) (
      filterAttrs (_: list: list != { }) {
        Documentation = words unit.documentation;
        Wants = words unit.wants;
        Requires = words unit.requires;
        After = words unit.after;
        Before = words unit.before;
        BindsTo = words unit.bindsTo;
        PartOf = words unit.partOf;
        Conflicts = words unit.conflicts;
      }
    )
    // optionalAttrs (unit.description != "") { Description = unit.description; }
    // optionalAttrs (unit.startLimitIntervalSec != null) {
      StartLimitIntervalSec = unit.startLimitIntervalSec;
    }
    // optionalAttrs (unit.startLimitBurst != null) { StartLimitBurst = unit.startLimitBurst; }
    // optionalAttrs (unit.reloadTriggers != [ ]) { X-Reload-Triggers = triggers unit.reloadTriggers; }
    // optionalAttrs (unit.restartTriggers != [ ]) {
      X-Restart-Triggers = triggers unit.restartTriggers;
    }
    // unit.unitConfig;

  # What a switch compares. A derivation among them is the configuration, which is text here.
  triggers =
    list:
    builtins.hashString "sha256" (
      concatStrings (map (trigger: if lib.isDerivation trigger then settings else toString trigger) list)
    );

  install =
    unit:
    optionalAttrs (unit.wantedBy != [ ] || unit.requiredBy != [ ]) {
      Install =
        optionalAttrs (unit.wantedBy != [ ]) { WantedBy = toString unit.wantedBy; }
        // optionalAttrs (unit.requiredBy != [ ]) { RequiredBy = toString unit.requiredBy; };
    };

  unitText =
    section: own: unit:
    ini ({ Unit = unitSection unit; } // { ${section} = own unit; } // install unit);

  # The fixed path of a NixOS system.
  placed = lib.replaceStrings [ "/run/current-system/sw/" ] [ "${fixed}/" ];
  service = unit: placed (serviceText unit);
  serviceText = unitText "Service" (
    unit:
    unit.serviceConfig
    // optionalAttrs (!unit.restartIfChanged) { X-RestartIfChanged = false; }
    // optionalAttrs (!unit.stopIfChanged) { X-StopIfChanged = false; }
    // optionalAttrs (unit.environment != { }) {
      Environment = mapAttrsToList (
        name: value: builtins.toJSON "${name}=${toString value}"
      ) unit.environment;
    }
  );
  socket = unitText "Socket" (
    unit:
    optionalAttrs (unit.listenStreams != [ ]) { ListenStream = unit.listenStreams; }
    // unit.socketConfig
  );
  slice = unitText "Slice" (unit: unit.sliceConfig);

  units =
    suffix: render: table:
    mapAttrs' (name: unit: nameValuePair "etc/systemd/system/${name}.${suffix}" (render unit)) table;

  # A file that the module has as text. Derivations are nothing that could be read here.
  etc = mapAttrs' (name: file: nameValuePair "etc/${name}" file.text) (
    filterAttrs (_: file: file ? text) config.environment.etc
  );

  group = name: _: "g ${name} -\n";

  # NixOS numbers people from 1000 on.
  people = lib.attrNames (
    filterAttrs (_: user: user.isNormalUser or false) (config.users.users or { })
  );
  number = name: toString (1000 + lib.lists.findFirstIndex (person: person == name) 0 people);
  home = name: user: user.home or (if user.isNormalUser or false then "/home/${name}" else "/");
  user =
    name: user:
    let
      id = if user.isNormalUser or false then "${number name}:users" else "-:${user.group}";
      shell = if user.isNormalUser or false then "/bin/bash" else "/usr/sbin/nologin";
    in
    "u ${name} ${id} ${builtins.toJSON (user.description or name)} ${home name user} ${shell}\n"
    + lib.concatMapStrings (group: "m ${name} ${group}\n") (user.extraGroups or [ ]);
in
units "service" service config.systemd.services
// units "socket" socket config.systemd.sockets
// units "slice" slice config.systemd.slices
// etc
// {
  "etc/ci-runner/config.toml" = settings;
  "etc/sysusers.d/nixos.conf" =
    concatStrings (mapAttrsToList group (config.users.groups or { }))
    + concatStrings (mapAttrsToList user (config.users.users or { }));
  "etc/tmpfiles.d/nixos.conf" =
    lib.concatMapStrings (
      name: "d ${home name config.users.users.${name}} 0700 ${name} users -\n"
    ) people
    + lib.concatMapStrings (rule: "${rule}\n") config.systemd.tmpfiles.rules;
}
