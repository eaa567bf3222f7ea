"""The origin: releases, keys, enrolment and the attestations of halts."""
