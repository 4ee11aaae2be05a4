"""All that is known of Earth Engine: the contract, the payload formats, the tiles, the call.

Imports no other package of the project, so that the serving image carries it alone.
"""
