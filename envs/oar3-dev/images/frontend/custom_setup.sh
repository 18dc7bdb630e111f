#!/bin/bash
# Runs at the end of the build of the frontend image, as root, with the files of this folder beside it.
# Yours to edit: `oardocker init -f` never overwrites it.
