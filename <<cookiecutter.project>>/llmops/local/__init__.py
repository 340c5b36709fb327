"""An endpoint on this machine: deployments as processes behind a router on one address.

A task, with KIND=local:
    tasks       make deploy, rollback and check-endpoint
    wanted      the endpoint and the deployment that the files ask for
    permission  whether gate and approval let it through
    machine     what can be done with an endpoint: see it, start it, change it, end it
    showing     STATUS=1 and DOWN=1
What both know:
    state       what an endpoint is, in a file
    processes   which processes are its own
    control     how tasks talk to the router
    logs        what the processes say
The router's process:
    __main__    its beginning and its end
    router      requests go to the deployment
    routing     that the traffic's split chooses,
    wire        one hop on, and their answers back;
    journal     each becomes a line
    endpoint    does what tasks ask for
    servers     and keeps the deployments' processes running
"""
