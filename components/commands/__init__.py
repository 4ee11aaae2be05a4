"""What the command line is made of, beside the commands themselves: options, submissions, following a run."""
