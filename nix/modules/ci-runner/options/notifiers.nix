# Who is told of alarms and ends of jobs: `[notifiers.NAME]` of the configuration file. What a kind of notifier needs, and
# where its secret may be, is looked at in ../assertions/notifiers.nix.
{ lib, ... }:
let
  inherit (lib) mkOption types;
  inherit (import ../lib/types.nix { inherit lib; }) label secretFile;

  # The daemon has the defaults, once: `null` leaves a key out of the file.
  optional =
    type: example: description:
    mkOption {
      type = types.nullOr type;
      default = null;
      inherit example description;
    };
  words =
    type: example: description:
    mkOption {
      type = types.listOf type;
      default = [ ];
      inherit example description;
    };
  allOr = words: types.either (types.enum [ "all" ]) (types.listOf (types.enum words));

  notifier = types.submodule {
    options = {
      kind = mkOption {
        type = types.enum [
          "command"
          "http"
          "email"
        ];
        example = "http";
        description = "How: a program with the event on its standard input, a signed POST, or a mail.";
      };

      watches =
        optional
          (allOr [
            "stuck_job"
            "slow_job"
            "failure_rate"
            "queue_age"
            "flapping"
          ])
          [
            "stuck_job"
            "queue_age"
          ]
          "Alarms that it is told of, or `\"all\"`; `null` is none.";

      outcomes =
        optional
          (allOr [
            "succeeded"
            "failed"
            "timed_out"
            "cancelled"
            "superseded"
            "expired"
          ])
          [
            "failed"
            "timed_out"
          ]
          ''
            Ends of jobs that it is told of, or `"all"`; `null` is none. A job that names the notifier
            (`ci-runner add --notify`) is told of in any case.
          '';

      names = words types.nonEmptyStr [ "nightly" "build*" ] ''
        Only of jobs with these names; `*` at the end makes one a beginning. Empty: any.
      '';

      pools = words types.nonEmptyStr [ "heavy" ] "Only of jobs of these pools. Empty: any.";

      labels = words label [ "gpu" ] "Only of jobs that ask for one of these labels. Empty: any.";

      timeout = optional (types.numbers.between 0.1 300) 30 ''
        A delivery that takes more seconds has failed; `null` is 15.
      '';

      rateMax = optional (types.ints.between 1 6000) 10 "Tries a minute; more wait; `null` is 60.";

      triesMax = optional (types.ints.between 1 100) 5 ''
        A delivery is given up after so many tries, with growing pauses between them; `null` is 12.
      '';

      queueMax = optional (types.ints.between 1 100000) 100 ''
        Deliveries that may wait; more are dropped and counted; `null` is 1000.
      '';

      command =
        words types.str (lib.literalExpression ''[ "''${pkgs.ntfy-sh}/bin/ntfy" "publish" "ci" ]'')
          ''
            Of `command`: program, an absolute path, and arguments. It runs as the daemon's user in the sandbox of
            `ci-runner.service`. Everybody on this machine can read it: give it its secrets by {option}`credentials`.
          '';

      url = optional (types.strMatching "https?://[^@[:space:]]+") "https://hooks.example.org/ci" ''
        Of `http`: where to. Everybody on this machine can read it: a hook whose address is its secret needs a program
        ({option}`kind` `command`) that reads it from a credential.
      '';

      secretCredential = optional types.nonEmptyStr "ops-hook" ''
        Of `http`: the name in {option}`services.ci-runner.credentials` of the secret, `whsec_…`, that signs each event.
      '';

      secretFile = optional secretFile "/run/secrets/ops-hook" ''
        Of `http`: the same as a file that the user ci-runner can read. It is read at each try, so that it can be replaced
        without a restart. Never a file of the Nix store.
      '';

      caFile = optional types.path "/etc/ssl/certs/internal.pem" ''
        Of `http`: certificates to trust, PEM; `null` is the system's.
      '';

      to = words types.nonEmptyStr [ "ops@example.org" ] "Of `email`: receivers, plain addresses.";

      from = optional types.nonEmptyStr "ci@example.org" ''
        Of `email`: sender; `null` is what the mail system says.
      '';

      sendmail = words types.str (lib.literalExpression ''[ "''${pkgs.msmtp}/bin/msmtp" "-t" ]'') ''
        Of `email`, and needed there: a program, an absolute path, and arguments, that takes the mail on standard
        input and the receivers from its header. It has to speak SMTP itself: under `NoNewPrivileges=` the
        setgid `sendmail` of `/run/wrappers/bin` gains nothing.
      '';
    };
  };
in
{
  options.services.ci-runner.notifiers = mkOption {
    type = types.attrsOf notifier;
    default = { };
    example = {
      ops = {
        kind = "http";
        url = "https://hooks.example.org/ci";
        secretCredential = "ops-hook";
        watches = "all";
        outcomes = [
          "failed"
          "timed_out"
        ];
      };
    };
    description = ''
      Who is told of alarms and of ends of jobs, by a name of small letters, digits, `-` and `_`; at most 32. A switch
      that changes them reloads the daemon.
    '';
  };
}
