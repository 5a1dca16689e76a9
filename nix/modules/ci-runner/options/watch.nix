# What counts as not as it should be: `[watch]` of the configuration file.
{ lib, ... }:
let
  inherit (lib) mkOption types;

  second = 1;
  minute = 60;
  hour = 3600;
  day = 86400;

  # The daemon has the defaults, once: `null` leaves a key out of the file.
  optional =
    type: example: description:
    mkOption {
      type = types.nullOr type;
      default = null;
      inherit example description;
    };
  seconds = types.ints.between;
  orUnlimited = types.either (types.enum [ "unlimited" ]);
  # 0 watches for nothing.
  orZero = types.either (types.enum [ 0 ]);
in
{
  options.services.ci-runner.watch = {
    every = optional (seconds second hour) 30 "Seconds between two looks; `null` is 10.";

    window = optional (seconds minute (31 * day)) 7200 ''
      Failures and changes of so many last seconds count; `null` is 3600.
    '';

    history = optional (seconds hour (366 * day)) 2592000 ''
      How long a job usually takes is known from so many last seconds; `null` is 604800, a week.
    '';

    calm = optional (seconds second day) 300 ''
      A figure stays for so many seconds at or below four fifths of its limit before its alarm ends; `null` is 60.
    '';

    stuckFactor = optional (orZero (types.numbers.between 1 1000)) 10 ''
      An attempt is stuck beyond so many times the 95th percentile of its name; 0: not by history; `null` is 5.
    '';

    stuckAfter = optional (orUnlimited types.ints.positive) 14400 ''
      An attempt is stuck beyond so many seconds, whatever its name; `null` is `"unlimited"`.
    '';

    slowFactor = optional (orZero (types.numbers.between 1 1000)) 3 ''
      An attempt is slow beyond so many times the 95th percentile of its name; 0: not watched; `null` is 2.
    '';

    failureRateMax = optional (orZero (types.numbers.between 1.0e-2 100)) 50 ''
      Percent of the jobs of {option}`window` that may fail or time out; 0: not watched; `null` is 20.
    '';

    failureJobsMin = optional (types.ints.between 1 1000000) 20 ''
      Fewer judged jobs have no failure rate; `null` is 10.
    '';

    queueAgeMax = optional (orUnlimited types.ints.positive) 600 ''
      How many seconds a job that could run may wait, or `"unlimited"`; `null` is 3600.
    '';

    flappingChangesMax = optional (types.ints.between 0 1000000) 3 ''
      So many changes between success and failure of one name in {option}`window` are still fine; 0: not watched; `null` is 5.
    '';
  };
}
