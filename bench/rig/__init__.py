"""The load rig: Shadowcat beside nginx, HAProxy and Envoy, in one run, on one machine."""
