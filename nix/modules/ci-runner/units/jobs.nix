# `ci-runner-jobs.service`, root's, where native jobs have users of their own, and the policy that it obeys. Jobs are its
# children: daemon.nix says what that means for its hardening.
{ config, lib, ... }:
let
  inherit (lib) mkDefault;
  cfg = config.services.ci-runner;
  inherit (import ../lib/derived.nix { inherit config lib; }) jobsPolicy jobsService logDir;
in
{
  config = lib.mkIf (cfg.enable && jobsService) {
    # Root's word on what the daemon may have started: by pool, the users of its slots.
    environment.etc."ci-runner/jobs.json".text = jobsPolicy;

    # Starts native jobs, each under its slot's user. What it may not do its jobs cannot do either, so
    # it is far more open than the other one.
    systemd.services.ci-runner-jobs = {
      description = "Starts the native jobs of ci-runner";
      wantedBy = [ "multi-user.target" ];
      reloadTriggers = [ jobsPolicy ];
      restartIfChanged = false;
      unitConfig.X-StopOnRemoval = false;
      startLimitIntervalSec = 0;

      serviceConfig = {
        Type = "notify";
        ExecStart = "/run/current-system/sw/bin/ci-runner-spawner --policy /etc/ci-runner/jobs.json";
        ExecReload = "/bin/sh -c 'kill -HUP $MAINPID'";
        Group = "ci-runner";
        Restart = "always";
        RestartSec = mkDefault "200ms";
        KillMode = "process"; # shims and jobs stay, the next spawner finds them
        RuntimeDirectory = "ci-runner-jobs";
        RuntimeDirectoryMode = "0711";
        RuntimeDirectoryPreserve = "yes";
        StateDirectory = "ci-runner-jobs"; # slots' directories, to be passed through
        StateDirectoryMode = "0711";

        # One cgroup per attempt below its own.
        Delegate = true;
        DelegateSubgroup = "main";
        OOMPolicy = "continue";

        # SETUID, SETGID: a job becomes its slot's user. CHOWN: so does its directory. DAC_OVERRIDE, FOWNER: which is emptied
        # after the job, whatever modes that left. KILL: ends jobs. SYS_PTRACE: sees them in /proc when their shim is dead.
        # Jobs have none of them: who is not root and may not become root has no capability.
        CapabilityBoundingSet = "CAP_SETUID CAP_SETGID CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER CAP_KILL CAP_SYS_PTRACE";
        NoNewPrivileges = mkDefault true;
        UMask = "0007"; # logs are for the group; a job's own mask is 0022

        ProtectSystem = mkDefault "strict";
        ProtectHome = mkDefault true; # for trees of people there are pools with user and paths
        ReadWritePaths = [
          logDir
          "-/tmp"
          "-/var/tmp"
          # Root removes from these what would start processes of a slot's user later; jobs may write there as little as elsewhere.
          "-/var/lib/systemd/linger"
          "-/var/spool/cron"
          "-/var/cron"
          "-/var/spool/at"
          "-/var/spool/atjobs"
        ];
        ProtectProc = mkDefault "invisible";
        ProtectKernelModules = mkDefault true;
        ProtectControlGroups = false; # it makes and removes those of the attempts; they are root's
        RestrictRealtime = mkDefault true;
        # A person who runs a setuid program of a slot's, or keeps it open, is that slot's user for as long as she likes.
        RestrictSUIDSGID = mkDefault true;
        KeyringMode = "private";
        # Keyrings: a user's outlives its processes, so one job would reach into the next. ENOSYS, as of a kernel without them, is
        # what programs know how to do without.
        SystemCallFilter = mkDefault "~@module @raw-io @swap @obsolete @keyring:ENOSYS";
        SystemCallErrorNumber = mkDefault "EPERM";
        RestrictAddressFamilies = mkDefault [
          "AF_UNIX"
          "AF_INET"
          "AF_INET6"
          "AF_NETLINK"
        ];
        # Through the bus a job would have PID 1 start a `systemd --user` of its user's, outside of this unit. The bus' whole
        # directory: a socket in it that is made anew stays closed. Sockets that look up names stay open, and `notify`, for us.
        InaccessiblePaths = [
          "-/var/lib/ci-runner"
          "-/run/dbus"
          "-/run/systemd/private"
        ]
        ++ map (name: "-/run/systemd/${name}") [
          "machine"
          "io.systemd.AskPassword"
          "io.systemd.BootControl"
          "io.systemd.Credentials"
          "io.systemd.FactoryReset"
          "io.systemd.Home"
          "io.systemd.Hostname"
          "io.systemd.Import"
          "io.systemd.Login"
          "io.systemd.Machine"
          "io.systemd.MachineImage"
          "io.systemd.Manager"
          "io.systemd.MountFileSystem"
          "io.systemd.NamespaceResource"
          "io.systemd.Repart"
          "io.systemd.Unit"
          "io.systemd.sysext"
        ];

        # Left as they are for the jobs' sake: what the end of daemon.nix says of native jobs inside, but for RestrictSUIDSGID.
        # PrivateTmp: it goes with the service, and jobs go on; what a user left there is removed after each job.
        # OOMScoreAdjust: jobs would inherit it.
        # PrivateUsers: slots' users are the host's.
      };
    };
  };
}
