"""The library behind the tasks: plan, run, evaluate, report and judge a flow."""
