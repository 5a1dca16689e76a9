# What each kind of notifier needs and takes, and where its secret may be: said with the option's name and what to do, before
# `config check` has its word on the finished file.
{ config, lib, ... }:
let
  cfg = config.services.ci-runner;

  # What only notifiers of one kind have, and what they cannot do without. The mail system of NixOS, which the daemon would
  # take without `sendmail`, is elsewhere and setgid.
  kinds = {
    command.needs = [ "command" ];
    http.needs = [ "url" ];
    http.takes = [
      "secretCredential"
      "secretFile"
      "caFile"
    ];
    email.needs = [
      "to"
      "sendmail"
    ];
    email.takes = [ "from" ];
  };
  isName = name: builtins.match "[a-z0-9][a-z0-9_-]{0,63}" name != null;
  isCredentialName = name: builtins.match "[A-Za-z0-9_-][A-Za-z0-9._-]*" name != null;
  keysOf = kind: kind.needs ++ kind.takes or [ ];

  # A credential by hand may come from elsewhere: encrypted, say.
  unitCredentials = lib.concatMap (key: lib.toList (daemonUnit.${key} or [ ])) [
    "LoadCredential"
    "LoadCredentialEncrypted"
    "SetCredentialEncrypted"
  ];
  daemonUnit = config.systemd.services.ci-runner.serviceConfig;
  isCredential =
    name: lib.any (given: given == name || lib.hasPrefix "${name}:" given) unitCredentials;

  notifierProblems =
    name: notifier:
    let
      option = key: "services.ci-runner.notifiers.${name}.${key}";
      isGiven = key: notifier.${key} != null && notifier.${key} != [ ];
      isRelative = key: isGiven key && !lib.hasPrefix "/" (lib.head notifier.${key});
      others = lib.concatMap keysOf (lib.attrValues (removeAttrs kinds [ notifier.kind ]));
    in
    map (key: ''${option key} is needed where kind = "${notifier.kind}". Set it.'') (
      lib.filter (key: !isGiven key) kinds.${notifier.kind}.needs
    )
    ++ map (
      key:
      ''${option key} means nothing where kind = "${notifier.kind}". Remove it, or say another kind.''
    ) (lib.filter isGiven others)
    ++
      map
        (key: "${option key} begins with a program by its absolute path. Write \"\${pkgs.name}/bin/name\".")
        (
          lib.filter isRelative [
            "command"
            "sendmail"
          ]
        )
    ++ lib.optional (
      isGiven "secretFile" && isGiven "secretCredential"
    ) "${option "secretFile"} stands beside secretCredential. Keep one of them."
    ++ lib.optional (isGiven "secretCredential" && !isCredential notifier.secretCredential) ''
      ${option "secretCredential"}: the service has no credential ${notifier.secretCredential}. Say in which file it is:
      services.ci-runner.credentials.${notifier.secretCredential} = "/run/secrets/${notifier.secretCredential}";'';
  problems = lib.concatLists (lib.mapAttrsToList notifierProblems cfg.notifiers);
in
{
  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = problems == [ ];
        message = lib.concatMapStrings (problem: "${problem}\n") problems;
      }
      {
        assertion =
          lib.all isName (lib.attrNames cfg.notifiers) && lib.length (lib.attrNames cfg.notifiers) <= 32;
        message = ''
          services.ci-runner.notifiers: ${toString (lib.attrNames cfg.notifiers)}: there may be 32, each with a name of at most 64 small
          letters, digits, - and _, the first a letter or digit.
        '';
      }
      {
        assertion = lib.all isCredentialName (lib.attrNames cfg.credentials);
        message = ''
          services.ci-runner.credentials: ${
            toString (lib.filter (name: !isCredentialName name) (lib.attrNames cfg.credentials))
          }: names of credentials are made of letters, digits, - _ and . only. Rename them.
        '';
      }
    ];
  };
}
