# The template's tasks are made like those of the repos that it generates: a session of noxfile.py
# each, run in a .venv that holds what requirements/tasks.txt locks.
include <<cookiecutter.project>>/Makefile
