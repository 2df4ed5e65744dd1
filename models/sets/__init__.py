"""Sets from observations by flow matching: fields that know no order, projections, encoders, couplings, distances."""
