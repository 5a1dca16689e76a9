# `ci-runner.service`, the daemon. Native jobs without users of their own are its children, and whatever is taken from a service
# is taken from the jobs inside of it. So a line of hardening stands there only if a compiler, a JIT, a debugger and an
# unprivileged container can live with it, and the ones that are left out say why. A daemon without jobs inside is closed.
{ config, lib, ... }:
let
  inherit (lib) mkDefault;
  cfg = config.services.ci-runner;
  inherit (import ../lib/derived.nix { inherit config lib; })
    jobsService
    logDir
    nativeInside
    rootLogs
    unitPools
    ;

  # A percent sign of a path is one, not a word of systemd's.
  unspecified = lib.replaceStrings [ "%" ] [ "%%" ];
in
{
  config = lib.mkIf cfg.enable {
    systemd.services.ci-runner = {
      description = "Job runner";
      wantedBy = [ "multi-user.target" ];
      requires = [ "ci-runner.socket" ];
      wants =
        lib.optional (unitPools != { }) "ci-runner-spawner.service"
        ++ lib.optional jobsService "ci-runner-jobs.service";
      after = [
        "network.target"
        "ci-runner.socket"
      ]
      ++ lib.optional (unitPools != { }) "ci-runner-spawner.service"
      ++ lib.optional jobsService "ci-runner-jobs.service";

      # A switch reloads for new settings and restarts, in one step, for a new package or unit and
      # for the two settings that a reload cannot change. Neither touches a job.
      reloadTriggers = [ config.environment.etc."ci-runner/config.toml".source ];
      restartTriggers = [
        (builtins.toJSON { inherit (cfg.settings) http; })
      ];
      stopIfChanged = false;

      # However often it ends, it comes back.
      startLimitIntervalSec = 0;

      serviceConfig = {
        Type = "notify-reload";
        ExecStart = "${lib.getExe cfg.package} daemon --config /etc/ci-runner/config.toml --metrics off";
        User = "ci-runner";
        Group = "ci-runner";
        UMask = mkDefault "0077";
        Slice = "ci_runner.slice";
        StateDirectory = "ci-runner";
        StateDirectoryMode = mkDefault "0700";

        # As they are when it starts. A switch with other ones restarts it.
        LoadCredential = lib.mkIf (cfg.credentials != { }) (
          lib.mapAttrsToList (name: file: "${name}:${unspecified file}") cfg.credentials
        );

        # Attempts live here, and jobs outlive the daemon: it may not be emptied when that stops.
        RuntimeDirectory = "ci-runner";
        RuntimeDirectoryMode = mkDefault "0750"; # the group comes to the socket
        RuntimeDirectoryPreserve = "yes";

        # One cgroup for each native attempt beside the one in which daemon and spawner live. Always: who takes it away under
        # running jobs takes their limits away, and no setting of another kind may do that.
        Delegate = true;
        DelegateSubgroup = "main";

        # Only the daemon itself is ever signalled. Its spawner and the jobs go on and are taken
        # over by the next daemon.
        KillMode = "process";
        Restart = "always";
        RestartSec = mkDefault "1s";
        WatchdogSec = mkDefault "30s";
        TimeoutStartSec = mkDefault "5min"; # a large store is read before the daemon is ready
        TimeoutStopSec = mkDefault "30s"; # jobs are not waited for; a commit is
        TimeoutAbortSec = mkDefault "5s"; # hung, so it will hardly answer SIGABRT either

        # No privilege, and none to be had: sudo and other setuid programs do nothing in a job.
        # A user namespace of a job's own still has its capabilities.
        NoNewPrivileges = mkDefault true;
        CapabilityBoundingSet = mkDefault "";
        AmbientCapabilities = mkDefault "";

        ProtectSystem = mkDefault "strict";
        ReadWritePaths = lib.optional rootLogs logDir;

        # What others say on their command lines is none of a job's business.
        ProtectProc = mkDefault "invisible";

        ProtectKernelModules = mkDefault true;
        RestrictRealtime = mkDefault true;
        RestrictAddressFamilies = mkDefault (
          [
            "AF_UNIX"
            "AF_INET"
            "AF_INET6"
          ]
          ++ lib.optional nativeInside "AF_NETLINK"
        );
        SystemCallErrorNumber = mkDefault "EPERM";
      }
      // lib.optionalAttrs (!nativeInside) {
        # No job is a child of it: it reads and writes its own files and talks.
        ProtectHome = mkDefault true;
        PrivateDevices = mkDefault true;
        DevicePolicy = mkDefault "closed";
        ProtectKernelTunables = mkDefault true;
        ProtectKernelLogs = mkDefault true;
        ProtectControlGroups = mkDefault true;
        ProtectClock = mkDefault true;
        ProtectHostname = mkDefault true;
        PrivateIPC = mkDefault true;
        RemoveIPC = mkDefault true;
        KeyringMode = mkDefault "private";
        RestrictNamespaces = mkDefault true;
        RestrictSUIDSGID = mkDefault true;
        LockPersonality = mkDefault true;
        MemoryDenyWriteExecute = mkDefault true;
        SystemCallArchitectures = mkDefault "native";
        SystemCallFilter = mkDefault [
          "@system-service"
          "~@privileged"
        ];

        # Left as they are, each for a reason:
        # PrivateTmp: `ci-runner backup /tmp/x` would end in a directory that nobody else sees; so it is refused.
        # PrivateUsers: the socket tells submitters apart by their real ids.
        # PrivateNetwork, IPAddressDeny: it serves, where the settings say.
        # ProcSubset: it watches the host's load and pressure.
      }
      // lib.optionalAttrs nativeInside {
        # The end of one job by the kernel is the end of that job.
        OOMPolicy = "continue";

        # Jobs write below the state directory and in the temporary ones. For a tree elsewhere add
        # its path to ReadWritePaths (the lists are joined).
        ProtectHome = mkDefault "read-only"; # not hidden: a job may start in a directory there
        ReadWritePaths = [
          "-/tmp"
          "-/var/tmp"
        ]
        ++ lib.optional rootLogs logDir;

        # Only what no unprivileged program can use anyway, in a user namespace of its own neither.
        # An errno, as without the filter, in place of the end of the process.
        SystemCallFilter = mkDefault "~@module @raw-io @swap @obsolete";

        # Left as they are, each for a reason:
        # PrivateTmp: systemd empties it when the daemon stops, and jobs go on. They have a TMPDIR
        #   of their own.
        # RemoveIPC: the same, with their shared memory.
        # OOMScoreAdjust: jobs would inherit the protection that is meant for the daemon.
        # PrivateUsers: the socket tells submitters apart by their real ids.
        # PrivateNetwork: jobs fetch; the daemon serves.
        # PrivateDevices, DevicePolicy, ProtectClock: jobs use /dev/kvm, /dev/fuse and GPUs.
        # ProtectControlGroups: each attempt has a cgroup of its own.
        # ProtectKernelTunables, ProtectKernelLogs: they cover parts of /proc, and then no job may
        #   mount a /proc in a user namespace (bubblewrap, rootless Podman). Both need root anyway.
        # ProtectHostname, RestrictNamespaces: the same programs.
        # RestrictSUIDSGID: setgid directories in archives and images.
        # MemoryDenyWriteExecute: node, Java and every other JIT.
        # LockPersonality: sanitizers and debuggers turn off address randomisation.
        # SystemCallArchitectures: 32-bit programs.
        # SystemCallFilter, the other groups: @debug is gdb, strace and perf, @mount and @privileged
        #   are containers, @reboot is how the init of one ends, @cpu-emulation is Wine, @resources
        #   is nice, @clock has the calls that read the clock's state too.
        # ProcSubset: make -j and everything else that counts processors and memory.
      };
    };
  };
}
