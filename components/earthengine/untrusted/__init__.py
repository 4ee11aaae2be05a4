"""Files from outside, held against bounds before anything of them is executed or allocated.

A trained model's directory and an archive may be made to attack whoever reads them. `files` sees that a path is an
ordinary file that lies where it says, `zips` reads the directory of a zip before its entries, `torchscript` and
`saved_model` look at what a model's graph does before it is loaded: a graph may write files as soon as it is.
Each raises a ValueError that says what is wrong; who reads the file names it and the way out.
"""
