# The daemon's socket.
{ config, lib, ... }:
let
  cfg = config.services.ci-runner;
in
{
  config = lib.mkIf cfg.enable {
    # PID 1 holds the socket: who submits while the daemon restarts waits, and is not refused.
    systemd.sockets.ci-runner = {
      description = "Socket of the job runner";
      wantedBy = [ "sockets.target" ];
      listenStreams = [ "/run/ci-runner/api.sock" ];
      socketConfig = {
        SocketUser = "ci-runner";
        SocketGroup = "ci-runner";
        SocketMode = "0660";
        DirectoryMode = "0750"; # as the service's RuntimeDirectoryMode, which gives it its owner
        TriggerLimitIntervalSec = 0; # as with the service: it never gives up
      };
    };
  };
}
