"""The published names with the arguments that their documents tell, and fields of configurations."""

API: dict[str, str] = {
    "drivedit.models.VAE3D": (
        "in_channels=3, latent_dim=64, hidden_dims=[64, 128, 256, 512], num_res_blocks=2, use_attention=True, beta=4.0"
    ),
    "drivedit.models.VAE3D.encode": "x",
    "drivedit.models.VAE3D.decode": "z",
    "drivedit.models.VAE3D.reparameterize": "mean, logvar",
    "drivedit.models.VAE3D.loss_function": "recon_x, x, mean, logvar",
    "drivedit.models.VAE3D.from_config": "config",
    "drivedit.models.DiTStudent": (
        "latent_dim=64, d_model=512, n_layers=12, n_heads=8, d_ff=None, max_seq_len=256, dropout=0.1, use_rope=True, "
        "rope_base=10000.0"
    ),
    "drivedit.models.DiTStudent.forward": "x, kv_cache=None, use_cache=False",
    "drivedit.models.DiTStudent.generate": "context, max_new_tokens, temperature=1.0, top_k=None, top_p=None",
    "drivedit.models.DiTStudent.from_config": "config",
    "drivedit.models.DiTTeacher": (
        "latent_dim=64, d_model=768, n_layers=16, n_heads=12, d_ff=None, num_diffusion_steps=1000, "
        "beta_schedule='linear'"
    ),
    "drivedit.models.DiTTeacher.forward": "x, timesteps, control=None",
    "drivedit.models.DiTTeacher.add_noise": "x, noise, timesteps",
    "drivedit.models.DiTTeacher.sample": "shape, num_steps=50, guidance_scale=1.0",
    "drivedit.models.DiTTeacher.from_config": "config",
    "drivedit.models.MemoryBank": (
        "d_model=512, max_spatial_memory=1000, max_object_memory=500, similarity_threshold=0.8"
    ),
    "drivedit.models.MemoryBank.update": "spatial_tokens, importance_scores, frame_idx=None",
    "drivedit.models.MemoryBank.retrieve": "query, top_k=32",
    "drivedit.models.MemoryBank.clear": "",
    "drivedit.models.parameter.BasevLLMParameter": "data, weight_loader",
    "drivedit.models.parameter.ModelWeightParameter": "data, weight_loader",
    "drivedit.models.parameter.PackedvLLMParameter": "data, weight_loader",
    "drivedit.models.parameter.PackedvLLMParameter.adjust_shard_indexes_for_packing": "shard_size, shard_offset",
    "drivedit.training.distributed.initialize_model_parallel": (
        "tensor_model_parallel_size=1, pipeline_model_parallel_size=1"
    ),
    "drivedit.training.distributed.get_tensor_model_parallel_rank": "",
    "drivedit.training.distributed.get_tensor_model_parallel_world_size": "",
    "drivedit.training.distributed.communication_op.all_reduce": "tensor, op=ReduceOp.SUM, group=None",
    "drivedit.training.SelfForcingTrainer": (
        "student_model, vae_model, optimizer, device='cuda', mixed_precision=True, use_wandb=False"
    ),
    "drivedit.training.SelfForcingTrainer.train_epoch": "dataloader",
    "drivedit.training.SelfForcingTrainer.validate_epoch": "dataloader",
    "drivedit.training.SelfForcingTrainer.save_checkpoint": "filepath, epoch=0, best_metric=float('inf'), **kwargs",
    "drivedit.training.SelfForcingTrainer.load_checkpoint": "filepath",
    "drivedit.training.DistillationTrainer": (
        "teacher_model, student_model, vae_model, optimizer, device='cuda', distillation_alpha=0.7, temperature=4.0"
    ),
    "drivedit.training.DistillationTrainer.train_epoch": "dataloader",
    "drivedit.training.losses.ReconstructionLoss": "pixel_weight=1.0, perceptual_weight=0.1, ssim_weight=0.1",
    "drivedit.training.losses.FlowMatchingLoss": "sigma_min=0.002, sigma_max=80.0",
    "drivedit.training.losses.CompositeLoss": "loss_weights, uncertainty_weighting=False",
    "drivedit.training.api.train.main": "args",
    "drivedit.training.api.train.train_one_step": (
        "transformer, model_type, optimizer, lr_scheduler, loader, noise_scheduler, noise_random_generator, "
        "gradient_accumulation_steps, sp_size, precondition_outputs, max_grad_norm, weighting_scheme, logit_mean, "
        "logit_std, mode_scale"
    ),
    "drivedit.training.api.train.compute_density_for_timestep_sampling": (
        "weighting_scheme, batch_size, generator, logit_mean=None, logit_std=None, mode_scale=None"
    ),
    "drivedit.training.api.distill.main": "args",
    "drivedit.training.api.distill.distill_one_step": (
        "transformer, model_type, teacher_transformer, ema_transformer, optimizer, lr_scheduler, loader, "
        "noise_scheduler, solver, noise_random_generator, gradient_accumulation_steps, sp_size, max_grad_norm, "
        "uncond_prompt_embed, uncond_prompt_mask, num_euler_timesteps, multiphase, not_apply_cfg_solver, distill_cfg, "
        "ema_decay, pred_decay_weight, pred_decay_type, hunyuan_teacher_disable_cfg"
    ),
    "drivedit.training.api.distill.EulerSolver": "sigmas, timesteps=1000, euler_timesteps=50",
    "drivedit.training.api.distill.PCMFMScheduler": (
        "num_train_timesteps=1000, shift=1.0, pcm_timesteps=50, linear_quadratic=False, "
        "linear_quadratic_threshold=0.025, linear_range=0.5"
    ),
    "drivedit.training.api.distill_adv.gan_g_loss": "fake_output, discriminator_weight, fake_output_32",
    "drivedit.training.api.distill_adv.gan_d_loss": (
        "real_output, fake_output, discriminator_weight, real_output_32, fake_output_32, discriminator_weight_32"
    ),
    "drivedit.config.BaseConfig.to_dict": "",
    "drivedit.config.BaseConfig.to_json": "",
    "drivedit.config.BaseConfig.save_json": "filepath",
    "drivedit.config.BaseConfig.from_dict": "config_dict",
    "drivedit.config.BaseConfig.from_json": "json_str_or_path",
    "drivedit.config.get_small_config": "",
    "drivedit.config.get_large_config": "",
    "drivedit.inference.StreamingRollout": "world_model, vae_model, config, device='cuda'",
    "drivedit.inference.StreamingRollout.generate_sequence": (
        "context_frames, control_sequence=None, max_new_frames=16, temperature=0.8, return_intermediates=False"
    ),
    "drivedit.inference.StreamingRollout.reset_state": "",
    "drivedit.data.VideoDataset": (
        "data_root, sequence_length=16, frame_skip=1, image_size=(256, 256), split='train', cache_frames=True, "
        "load_controls=True, load_depth=False"
    ),
    "drivedit.data.VideoLoader": (
        "dataset, batch_size=8, shuffle=True, num_workers=4, pin_memory=True, drop_last=True, prefetch_factor=2"
    ),
    "drivedit.data.VideoLoader.get_cache_stats": "",
    "drivedit.data.VideoLoader.clear_cache": "",
    "drivedit.data.VideoTransforms.temporal_crop": "video, length, start=None",
    "drivedit.data.VideoTransforms.temporal_subsample": "video, factor",
    "drivedit.data.VideoTransforms.temporal_flip": "video",
    "drivedit.data.VideoTransforms.apply_frame_transform": "video, transform_fn, **kwargs",
    "drivedit.data.FrameTransforms.normalize": "frame, mean, std",
    "drivedit.data.FrameTransforms.resize": "frame, size, mode='bilinear'",
    "drivedit.data.FrameTransforms.crop": "frame, top, left, height, width",
    "drivedit.data.FrameTransforms.horizontal_flip": "frame",
    "drivedit.data.FrameTransforms.brightness": "frame, factor",
    "drivedit.data.FrameTransforms.contrast": "frame, factor",
    "drivedit.data.FrameTransforms.gaussian_noise": "frame, std=0.01",
    "drivedit.data.AugmentationPipeline": "transforms, p=0.5",
    "drivedit.data.AugmentationPipeline.create_training_pipeline": "image_size",
    "drivedit.data.AugmentationPipeline.create_validation_pipeline": "image_size",
    "drivedit.data.ControlPreprocessor": (
        "control_dim=4, normalize_controls=True, control_ranges=None, smooth_controls=True, smooth_window=3"
    ),
    "drivedit.evaluation.VideoMetrics.mse": "pred, target, mask=None",
    "drivedit.evaluation.VideoMetrics.psnr": "pred, target, max_val=1.0",
    "drivedit.evaluation.VideoMetrics.ssim": "pred, target, window_size=11",
    "drivedit.evaluation.VideoMetrics.lpips_proxy": "pred, target",
    "drivedit.evaluation.TemporalConsistencyMetrics.temporal_mse": "frames",
    "drivedit.evaluation.TemporalConsistencyMetrics.optical_flow_consistency": "frames",
    "drivedit.evaluation.TemporalConsistencyMetrics.frame_warping_error": "frames, flows=None",
    "drivedit.evaluation.ControlMetrics.control_mse": "pred_controls, target_controls",
    "drivedit.evaluation.ControlMetrics.steering_accuracy": "pred_controls, target_controls, threshold=0.1",
    "drivedit.evaluation.ControlMetrics.control_smoothness": "controls",
    "drivedit.evaluation.compute_all_metrics": (
        "pred_frames, target_frames, pred_controls=None, target_controls=None, pred_depth=None, target_depth=None, "
        "positions=None"
    ),
    "drivedit.evaluation.SequenceEvaluator": ("model, vae_model=None, device='cuda', compute_expensive_metrics=True"),
    "drivedit.evaluation.SequenceEvaluator.evaluate_sequence": (
        "context_frames, target_frames, controls=None, return_generated=False"
    ),
    "drivedit.evaluation.SequenceEvaluator.evaluate_batch": "batch, context_ratio=0.5",
    "drivedit.evaluation.PerformanceBenchmark": "model, device='cuda'",
    "drivedit.evaluation.PerformanceBenchmark.run_performance_suite": "",
    "drivedit.evaluation.WorldModelBenchmark": "model, vae_model=None, device='cuda', save_path=None",
    "drivedit.training.sets.train.train": "cfg",
    "drivedit.training.sets.eval.evaluate": "cfg",
    "drivedit.training.sets.ksin_datamodule.KSinDataModule": (
        "k, signal_length=1024, sort_frequencies=False, break_symmetry=False, shift_test_distribution=False, "
        "train_val_test_sizes=(100_000, 10_000, 10_000), train_val_test_seeds=(123, 456, 789), batch_size=1024, "
        "ot=False, num_workers=0"
    ),
    "drivedit.training.sets.ksin_datamodule.make_sin": "params, length, break_symmetry=False",
    "drivedit.training.sets.surge_datamodule.SurgeDataModule": (
        "dataset_root, use_saved_mean_and_variance=True, batch_size=1024, ot=True, num_workers=0, fake=False, "
        "repeat_first_batch=False, predict_file=None, conditioning='mel'"
    ),
    "drivedit.training.sets.modules.SurgeFlowMatchingModule": (
        "encoder, vector_field, optimizer, scheduler, conditioning='mel', warmup_steps=5000, cfg_dropout_rate=0.1, "
        "rectified_sigma_min=0.0, validation_sample_steps=50, validation_cfg_strength=4.0, test_sample_steps=100, "
        "test_cfg_strength=4.0, compile=False, num_params=90"
    ),
    "drivedit.models.sde.STDiffDiffusers": "unet_cfg, tde_cfg",
    "drivedit.models.sde.STDiffDiffusers.forward": (
        "Vo, idx_o, idx_p, noisy_Vp, timestep, clean_Vp=None, Vo_last_frame=None"
    ),
    "drivedit.models.sde.UNet2DMotionCond": (
        "sample_size, in_channels, out_channels, m_channels, layers_per_block, block_out_channels, down_block_types, "
        "up_block_types, attention_head_dim"
    ),
    "drivedit.models.sde.UNet2DMotionCond.forward": "sample, timestep, m_feat, return_dict=True",
    "drivedit.models.sde.UNet2DMotionCondOutput": "sample",
    "drivedit.models.sde.DiffModel": "int_cfg, motion_encoder_cfg, diff_unet_cfg",
    "drivedit.models.sde.DiffModel.context_encode": "Vo, idx_o",
    "drivedit.models.sde.DiffModel.future_predict": "m, idx",
    "drivedit.models.sde.STDiffPipeline": "stdiff, scheduler",
    "drivedit.models.sde.STDiffPipeline.__call__": (
        "Vo, Vo_last_frame, idx_o, idx_p, generator, num_inference_steps, output_type, to_cpu, fix_init_noise"
    ),
    "drivedit.models.pixel.PixelHDM.forward": (
        "x_t, t, text_embed=None, text_mask=None, pooled_text_embed=None, return_features=False"
    ),
    "drivedit.models.pixel.create_pixelhdm_for_t2i": "config=None, load_text_encoder=True, load_dino_encoder=True",
    "drivedit.models.pixel.create_pixelhdm_from_config": "config",
    "drivedit.models.pixel.create_pixelhdm_for_t2i_from_config": (
        "config, load_text_encoder=True, load_dino_encoder=True"
    ),
    "drivedit.models.pixel.create_text_encoder_from_config": "config",
    "drivedit.models.pixel.create_dinov3_encoder_from_config": "config",
    "drivedit.models.flow.unified.UnifiedSampler": "method='heun', num_steps=50, t_eps=0.05",
    "drivedit.models.flow.unified.UnifiedSampler.count_nfe": "num_steps=None, use_cfg=False, t_start=0.0",
    "drivedit.models.flow.unified.create_sampler_from_config": "config",
    "drivedit.models.flow.unified.apply_cfg": "x_cond, x_uncond, guidance_scale, rescale_factor=0.0",
    "drivedit.models.flow.unified.StandardCFG.apply": "x_cond, x_uncond, guidance_scale",
    "drivedit.training.flow_matching.create_flow_matching": "config",
    "drivedit.training.flow_matching.create_flow_matching_from_config": "config",
    "drivedit.training.pixel_losses.create_combined_loss_from_config": "config",
    "drivedit.config.pixel_training.Config.from_yaml": "path",
    "drivedit.data.create_dataloader_from_config_v2": "root_dir, model_config, data_config, batch_size=16",
    "drivedit.training.pixel_trainer.create_trainer": (
        "model, config, training_config, dataloader=None, device=None, text_encoder=None"
    ),
    "drivedit.training.pixel_trainer.Trainer.train": (
        "num_steps=None, num_epochs=None, log_interval=100, save_interval=1000, save_every_epochs=0, callback=None, "
        "use_progress_bar=True"
    ),
    "drivedit.training.pixel_trainer.Trainer.train_step": "batch",
    "drivedit.training.pixel_trainer.Trainer.safe_train_step": "batch, retry_on_oom=True, max_retries=3",
    "drivedit.inference.PixelHDMPipeline": "model",
    "drivedit.inference.PixelHDMPipeline.__call__": (
        "prompt, negative_prompt=None, height=512, width=512, num_steps=50, guidance_scale=7.5, "
        "num_images_per_prompt=1, seed=None, sampler_method='heun', output_type='pil', return_intermediates=False, "
        "callback=None"
    ),
    "drivedit.inference.create_pipeline_from_config": (
        "config, device, dtype, load_text_encoder=True, load_dino_encoder=False"
    ),
    "drivedit.models.sets.transformer.ApproxEquivTransformer": (
        "projection, num_layers=5, d_model=1024, conditioning_dim=128, num_heads=8, d_ff=1024, num_tokens=32, "
        "learn_pe=False, learn_projection=False, pe_type='initial', pe_penalty=0.0, time_encoding='scalar', d_enc=256, "
        "projection_penalty=0.0, norm='layer', skip_first_norm=False, adaln_mode='basic', zero_init=True, "
        "outer_residual=False"
    ),
    "drivedit.models.sets.transformer.LearntProjection": (
        "d_model, d_token, num_params, num_tokens, initial_ffn=True, final_ffn=True"
    ),
    "drivedit.models.sets.transformer.KSinParamToTokenProjection": "d_model, params_per_token=2",
    "drivedit.models.sets.transformer.ASTWithProjectionHead": (
        "d_model=768, d_out=16, n_heads=8, n_layers=16, patch_size=16, patch_stride=10, input_channels=2, "
        "spec_shape=(128, 401)"
    ),
    "drivedit.evaluation.metrics.sets.LogSpectralDistance": "eps=1e-8, **kwargs",
    "drivedit.evaluation.metrics.sets.ChamferDistance": "params_per_token, **kwargs",
    "drivedit.evaluation.metrics.sets.LinearAssignmentDistance": "params_per_token, **kwargs",
    "drivedit.evaluation.metrics.sets.complex_to_dbfs": "z, eps=1e-8",
    "drivedit.utils.safe_cat": "tensors, dim=0",
    "drivedit.utils.safe_stack": "tensors, dim=0",
    "drivedit.utils.pad_sequence": "sequences, batch_first=True, padding_value=0.0",
    "drivedit.utils.chunk_tensor": "tensor, chunk_size, dim=0, overlap=0",
    "drivedit.utils.move_to_device": "obj, device",
    "drivedit.utils.tensor_memory_usage": "tensor",
    "drivedit.utils.normalize_tensor": "tensor, dim=-1",
    "drivedit.utils.count_parameters": "model, trainable_only=True",
    "drivedit.utils.freeze_parameters": "model, freeze=True",
    "drivedit.utils.get_device": "model",
    "drivedit.utils.set_seed": "seed",
    "drivedit.utils.initialize_weights": "model, init_type='xavier', gain=1.0",
    "drivedit.utils.clip_gradients": "model, max_norm=1.0",
    "drivedit.utils.get_gradient_norm": "model",
    "drivedit.utils.save_checkpoint": "model, optimizer, epoch, loss, filepath, **kwargs",
    "drivedit.utils.load_checkpoint": "filepath, model, optimizer=None, device=None",
    "drivedit.utils.exponential_moving_average": "model, ema_model, decay=0.999",
    "drivedit.utils.get_model_size_mb": "model",
    "drivedit.utils.gaussian_kernel": "size, sigma, device",
    "drivedit.utils.stable_softmax": "x, dim=-1, temperature=1.0",
    "drivedit.utils.cosine_similarity_matrix": "x, y",
    "drivedit.utils.pairwise_distance_matrix": "x, y, p=2",
    "drivedit.utils.finite_difference_gradient": "tensor",
    "drivedit.utils.laplacian": "tensor",
    "drivedit.utils.gumbel_noise": "shape, device",
    "drivedit.utils.gumbel_softmax": "logits, temperature=1.0, hard=False",
}

# Configuration classes with the fields that are documented, in their order; they may have more after them.
FIELDS: dict[str, str] = {
    "drivedit.config.ModelConfig": "vae student teacher training",
    "drivedit.config.VAEConfig": "in_channels latent_dim hidden_dims num_res_blocks use_attention beta",
    "drivedit.config.StudentConfig": (
        "latent_dim d_model n_layers n_heads d_ff max_seq_len dropout use_rope rope_base"
    ),
    "drivedit.config.TeacherConfig": "latent_dim d_model n_layers n_heads d_ff num_diffusion_steps beta_schedule",
    "drivedit.config.pixel_training.TrainingConfig": "learning_rate batch_size max_steps",
    "drivedit.config.pixel_training.DataConfig": "use_bucketing min_bucket_size max_bucket_size sampler_mode",
    "drivedit.config.pixel_training.Config": "model training data",
    "drivedit.inference.InferenceConfig": (
        "max_sequence_length context_window temperature top_k top_p use_kv_cache mixed_precision memory_offload_freq"
    ),
}

# Configuration -> what it feeds. All parameters of a network come from it, a trainer also takes objects.
